"""Result files of the classification task as the PASCAL VOC evaluation server takes them.

results/VOC2012/Main/comp1_cls_test_aeroplane.txt, one file a class, holds "<image id> <confidence>" for each image of
the split. Competition 1 allows training on the VOC data alone, competition 2 on any other data too.
"""

import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masksup.base.files import refuse_unwritable, to_disk, written_whole
from masksup.config.schema import Config
from masksup.data.index import Index
from masksup.data.prepare.voc import VOC_CLASSES
from masksup.errors import UserError


@dataclass(frozen=True)
class ServerFiles:
    """Where the files go: `folder`/`prefix`<class>.txt."""

    folder: Path
    prefix: str


def server_files(directory: Path, index: Index, competition: str) -> ServerFiles:
    """The files below `directory` for the split of `index`, and the folders they need, made.

    competition: comp1 or comp2. UserError for an index of other classes or of no known year, and for a folder that
    cannot be written to.
    """
    if sorted(index.classes) != sorted(VOC_CLASSES):
        other = next((name for name in index.classes if name not in VOC_CLASSES), None)
        found = f"the class '{other}'" if other else f"{len(index.classes)} of the classes"
        raise UserError(f"--write-voc-server: {index.folder}: found {found}, expected the 20 of PASCAL VOC")
    year = re.fullmatch(r"voc(\d{4})", index.name) or re.fullmatch(r"VOC(\d{4})", index.root.name)
    if year is None:
        found = f"the data set '{index.name}' in '{index.root}'"
        raise UserError(f"--write-voc-server: {index.folder}: found {found}, expected voc2007, voc2012 or VOC<year>")
    folder = directory / "results" / f"VOC{year[1]}" / "Main"
    refuse_unwritable(folder, create=True)
    return ServerFiles(folder, f"{competition}_cls_{index.split}_")


def usual_competition(config: Config) -> str:
    """comp1 for a network that began with random weights, else comp2: those weights have seen other pictures."""
    return "comp1" if config.model.weights == "none" else "comp2"


def write_server_files(
    files: ServerFiles, ids: list[str], classes: tuple[str, ...], confidence_NC: NDArray[np.float64]
) -> None:
    """Write confidences (any that rise with certainty) in the order of `ids`; a crash leaves no file in part."""
    with ExitStack() as all_of_them:  # get their names at its end, so that the files of two models are not mixed
        for name, confidence_N in zip(classes, confidence_NC.T):
            partial = all_of_them.enter_context(written_whole(files.folder / f"{files.prefix}{name}.txt"))
            with partial.open("w", encoding="utf-8") as text:
                # All digits: a rounded confidence would tie with others, and ties cost precision.
                text.writelines(f"{image_id} {value!r}\n" for image_id, value in zip(ids, confidence_N.tolist()))
                to_disk(text)
