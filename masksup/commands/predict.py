"""`masksup predict`: labels for files, folders and globs, with any trained run."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from masksup.base.files import refuse_unwritable
from masksup.base.log import log, start_logging
from masksup.base.random import draws
from masksup.data.decode import decode
from masksup.data.decode_pil import BrokenImage
from masksup.data.split import transform_settings
from masksup.data.transforms import eval_transform
from masksup.engine.precision import set_numerics
from masksup.errors import UserError
from masksup.explain.predictions import draw_file, explaining
from masksup.output.image_files import find_images
from masksup.output.labels import Row, check_out, print_labels, tell_unlabelled, write_scores
from masksup.saved.decisions_of import decisions_for, told
from masksup.saved.label import Loaded, label
from masksup.saved.open import Trained, WhichWeights, open_trained
from masksup.saved.running import AS_TRAINED, Running


def run_predict(
    path: Path, images: list[str], weights: WhichWeights, threshold: float | None, out: Path | None,
    pictures: Path | None, explain: bool = False, classes: str | None = None, running: Running = AS_TRAINED,
    *, exact: bool = False, raw_csv: bool = False,
) -> int:  # fmt: skip
    """Print `path prediction: dog,person` for every image; write all scores and pictures where asked.

    explain: the pictures also show where each class is seen; classes: of which classes, names joined by commas.
    exact: as in `label`; raw_csv: as in `write_scores`.
    Unreadable images are named at the end and make the exit status 2; the others are labelled all the same.
    """
    start_logging()
    if explain and pictures is None:
        raise UserError("--explain: found without --pictures DIR, where the explaining pictures go")
    if classes is not None and not explain:
        raise UserError("--classes: found without --explain, whose maps it chooses")
    check_out(out)
    files = find_images(images)
    names_of = picture_names(files)
    if pictures is not None:
        refuse_unwritable(pictures, create=True)
    trained = open_trained(path, weights).run_as(running)
    set_numerics(trained.config.precision)
    decisions = told(decisions_for(trained), threshold)
    wanted = explaining(trained, files, classes) if explain else None
    reader = True
    rows: list[Row] = []
    broken: list[str] = []
    for block in _blocks(files, trained, broken):
        for file, scores_C, regions in label(block, trained, decisions, exact=exact):
            rows.append((file, scores_C))
            reader = reader and print_labels(file, decisions.names(scores_C))
            if pictures is not None:
                draw_file(file, scores_C, regions, trained, decisions, pictures / names_of[file], wanted)
    tell_unlabelled(rows, decisions)
    if out is not None:
        facts = {"checkpoint": trained.checkpoint, "weights": trained.weights}
        write_scores(out, rows, decisions, facts, raw_csv=raw_csv)
        log.info(f"all scores: {out}")
    if pictures is not None:
        log.info(f"pictures: {pictures}")
    if broken:
        raise UserError("; ".join(broken))
    return 0


def _blocks(files: list[Path], trained: Trained, broken: list[str]) -> Iterator[Loaded]:
    """Model inputs (uint8 3SS, turned as their EXIF says) in groups of the run's evaluation batch."""
    config = trained.config
    transform = eval_transform(transform_settings(config.augment), config.model.size)
    block: Loaded = []
    for file in files:
        try:
            image = decode(file, exif=True, max_pixels=config.data.max_pixels)
        except BrokenImage as error:
            broken.append(str(error))
            continue
        block.append((file, transform(image, draws(0, len(block), "transform"))[0]))
        if len(block) == config.eval.batch:
            yield block
            block = []
    if block:
        yield block


def picture_names(files: list[Path]) -> dict[Path, str]:
    """A file name for the picture of each image: its stem, or its whole path where stems are shared. All differ."""
    stems = Counter(file.stem for file in files)
    names = {file: file.stem if stems[file.stem] == 1 else "_".join(file.parts).replace("/", "") for file in files}
    shared = Counter(names.values())
    return {file: f"{n}.png" if shared[n] == 1 else f"{n}_{i}.png" for i, (file, n) in enumerate(names.items())}
