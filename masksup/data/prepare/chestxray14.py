"""ChestX-ray14 (NIH): Data_Entry_2017*.csv, train_val_list.txt and test_list.txt -> index of 14 findings.

'No Finding' is no class: such images show none of the 14. Images may lie in one folder or in images_001 to images_012.
"""

from pathlib import Path

from masksup.base.words import counted
from masksup.data.prepare.options import named_splits, read_text
from masksup.data.prepare.tables.cells import read_table
from masksup.data.prepare.tables.classes import ClassRules
from masksup.data.prepare.tables.contents import contents_of, images_folder
from masksup.data.prepare.tables.find_images import FindImages
from masksup.data.prepare.tables.labelled import Labelled, Row
from masksup.data.write_index import IndexContent
from masksup.errors import UserError

FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
_LISTS = {"trainval": "train_val_list.txt", "test": "test_list.txt"}
_COLUMNS = ("Image Index", "Finding Labels")


def prepare_chestxray14(
    root: Path,
    *,
    split: list[str] | None = None,
    images: str | None = None,
    classes: str | None = None,
    drop_class: list[str] | None = None,
    skip_broken: bool = False,
) -> list[IndexContent]:
    """The official splits trainval and test (no patient is in both), or NAME=LIST of `split`."""
    folder = images_folder(root, images)
    files = sorted(root.glob("Data_Entry_2017*.csv"))
    if not files:
        raise UserError(f"--root {root}: found no Data_Entry_2017.csv, expected the table of ChestX-ray14")
    found = _findings(files[0])
    tables = {}
    for name, given in (named_splits(split) if split else dict(_LISTS)).items():
        file = root / (given or _LISTS.get(name, f"{name}.txt"))
        ids = [line.strip() for line in read_text(file).splitlines() if line.strip()]
        unknown = [key for key in ids if key not in found]
        if unknown:
            raise UserError(
                f"{file}: found {counted(len(unknown), 'image')} not in {files[0].name} (first: {unknown[0]})"
            )
        tables[name] = Labelled(files[0], FINDINGS, [found[key] for key in ids])
    if not split and (others := len(found) - sum(len(table.rows) for table in tables.values())) > 0:
        tables["trainval"].warnings.append(f"{counted(others, 'image')} of {files[0].name} in neither official list")
    rules = ClassRules(classes, tuple(drop_class or ()))
    return contents_of("chestxray14", tables, FindImages(folder), root, rules, skip_broken=skip_broken)


def _findings(file: Path) -> dict[str, Row]:
    table = read_table(file)
    head = table.rows[0][1]
    if missing := [name for name in _COLUMNS if name not in head]:
        raise UserError(f"{file}, line 1: found the header '{','.join(head)[:80]}', expected a column '{missing[0]}'")
    image, labels = (head.index(name) for name in _COLUMNS)
    found = {}
    for line, row in table.rows[1:]:
        names = [name.strip() for name in row[labels].split("|")] if len(row) > labels else [""]
        for name in names:
            if name not in (*FINDINGS, "No Finding"):
                raise UserError(f"{file}, line {line}: found the finding '{name[:60]}', expected those of ChestX-ray14")
        found[row[image]] = Row(line, row[image], {name: 1 for name in names if name != "No Finding"})
    return found
