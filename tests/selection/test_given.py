"""What the user of `masksup auto` says: tables of any names, options of other commands, settings that it decides."""

import json
from pathlib import Path

import pytest
from choosing import QUICK, SMALL, auto, choices
from PIL import Image
from pretrained import write_weights

from masksup.cli import main
from masksup.selection.folder import held


def write_images(folder: Path, images: int) -> None:
    for number in range(images):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / f"{number}.png")


def table(file: Path, numbers: range, labels: str) -> Path:
    """Of images of which every second one has `labels`, the others c."""
    file.parent.mkdir(exist_ok=True)
    rows = [f"{number}.png,{labels if number % 2 else 'c'}" for number in numbers]
    file.write_text("\n".join(["image,labels", *rows]) + "\n")
    return file


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["model.size=64"], "model.size: found 64, but masksup auto sets it; give the smaller side by --size"),
        (["model.octaves=2"], "model.octaves: found 2, but masksup auto sets it; leave it out"),
        (["data.folds=4"], "data.folds: found 4, but masksup auto sets it; give the number by --folds"),
        (["data.train=VAL"], "but masksup auto sets it; give the images by --data or --csv"),
        (["data.eval=VAL"], "but masksup auto sets it; leave it out: each fold"),
        (["model.frozen=true"], "model.frozen: found true, but masksup auto sets it; leave it out"),
        (["seed=3", "--plan"], "command line: seed: found 3, but masksup auto sets it; give it by --seed"),
        (["epochs=1"], "epochs: found 1, but masksup auto sets it; leave it out: some settings differ in it"),
        (["optim.name=sgd"], "optim.name: found sgd, but masksup auto sets it; leave it out"),
        (["method.name=masksup"], "method.name: found masksup, but masksup auto sets it; give --robust"),
        (["method={name: masksup}"], "method.name: found masksup, but masksup auto sets it; give --robust"),
        (["stop.patience_epochs=1"], "stop.patience_epochs: found 1, but masksup auto sets it; leave it out: a fold"),
        (["--backbone", "test_vit", "--size", "50"], "(in masksup auto, model.size: give the smaller side by --size)"),
    ],
)
def test_what_a_search_decides_cannot_be_set(
    words: list[str], line: str, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A head at 64 px would be told as one at 32 px, and four folds would leave a quarter out of the last training."""
    assert auto(tiny_data, tmp_path / "out", *(word.replace("VAL", str(tiny_data / "val")) for word in words)) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("there", "line"),
    [
        ("", "found a file, expected a folder or a new name"),
        ("config.yaml", "found the folder of a run; expected a new name, or an earlier search"),
        ("head-32/notes.txt", "head-32: found a folder that is not a run, expected a run folder or a new name"),
        ("head-32", "head-32: found a file, expected a run folder or a new name"),
    ],
)
def test_a_folder_of_something_else_is_refused_first(
    there: str, line: str, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out" / there
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert auto(tiny_data, tmp_path / "out", "--trials", "2") == 2
    said = capsys.readouterr()
    assert line in said.err
    assert said.err.count("\n") == 1
    assert "fold 1" not in said.out
    assert sorted(tmp_path.rglob("*")) == before
    assert file.read_text() == "mine"


def test_a_search_that_an_older_version_began_beside_a_run_goes_on(tiny_data: Path, tmp_path: Path) -> None:
    assert auto(tiny_data, tmp_path, "--trials", "2") == 0
    (tmp_path / "config.yaml").write_text("of a run")
    assert auto(tiny_data, tmp_path, "--trials", "2") == 0


def test_two_searches_do_not_share_a_folder(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with held(out):
        assert auto(tiny_data, out, "--trials", "2") == 2
        said = f"--out {out}: another masksup auto is at work in this folder; wait for it, or take another --out\n"
        assert capsys.readouterr().err == f"masksup: {said}"
        assert auto(tiny_data, out, "--plan") == 0
    (out / "head-32").mkdir()  # as a process leaves it that was killed there
    assert auto(tiny_data, out, "--trials", "2") == 0, "what ended is in nobody's way"


def test_a_refused_table_leaves_the_index_of_the_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else `winner.yaml` would repeat the choice on other labels."""
    write_images(tmp_path, 24)
    file, out = table(tmp_path / "list.csv", range(24), "a"), tmp_path / "out"
    words = ["auto", "--root", str(tmp_path), "--out", str(out), *SMALL, *QUICK, "--trials", "2"]
    assert main([*words, "--csv", str(file)]) == 0
    index, folders = header_of(out / "data" / "list"), sorted(out.iterdir())
    table(file, range(24), "a|b")
    assert main([*words, "--csv", str(file)]) == 2
    assert "choices.json: index of the images: found " in capsys.readouterr().err
    assert main([*words, "--csv", str(file.rename(tmp_path / "other.csv"))]) == 2
    assert header_of(out / "data" / "list") == index
    assert sorted(out.iterdir()) == folders
    assert [path.name for path in (out / "data").iterdir()] == ["list"]


def header_of(index: Path) -> str:
    return (index / "index.json").read_text()


def test_other_weights_under_the_same_name_are_another_search(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "w.pth", tmp_path / "out"
    write_weights(file, "test_resnet")
    words = ["--weights", str(file), "--trials", "2"]
    assert auto(tiny_data, out, *words) == 0
    write_weights(file, "test_resnet", seed=2)
    assert auto(tiny_data, out, *words) == 2
    assert "choices.json: sha256 of --weights: found " in capsys.readouterr().err
    tree = choices(out)
    del tree["options"]["weights_sha256"]  # as the version before wrote it
    (out / "choices.json").write_text(json.dumps(tree))
    write_weights(file, "test_resnet")
    assert auto(tiny_data, out, *words) == 0


def test_copies_of_an_image_are_held_out_together(tmp_path: Path) -> None:
    write_images(tmp_path, 24)
    for number in range(0, 24, 5):
        (tmp_path / f"{number}-copy.png").write_bytes((tmp_path / f"{number}.png").read_bytes())
    file = table(tmp_path / "list.csv", range(24), "a")
    with file.open("a") as rows:
        rows.writelines(f"{number}-copy.png,a\n" for number in range(0, 24, 5))
    words = ["auto", "--csv", str(file), "--root", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main([*words, *SMALL, *QUICK, "--trials", "2"]) == 0


@pytest.mark.parametrize(("labels", "option"), [("a;c", "--separator"), ("a", "--skip-broken")])
def test_an_option_that_only_prepare_has_is_named_with_its_command(
    labels: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path, 12)
    file = table(tmp_path / "train.csv", range(13), labels)  # of which the last image is not there
    assert main(["auto", "--csv", str(file), "--root", str(tmp_path), "--out", str(tmp_path / "out"), *SMALL]) == 2
    error = capsys.readouterr().err
    end = f"; masksup prepare csv has {option}, and masksup auto --data takes the index that it writes\n"
    assert error.endswith(end)
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_a_test_part_the_way_to_an_honest_figure_needs_no_second_search(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert auto(tiny_data, out, "--trials", "2") == 0
    run = out / choices(out)["chosen"]
    assert f"masksup eval {run} --data INDEX" in capsys.readouterr().out.replace("\n", " ")
    assert main(["eval", str(run), "--data", str(tiny_data / "test")]) == 0


def test_tables_of_any_names_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two folders both may be called alike, and a name may have spaces."""
    write_images(tmp_path, 24)
    first, second = (table(tmp_path / name / "list.csv", range(start, start + 12), "a")
                     for name, start in (("a", 0), ("b", 12)))  # fmt: skip
    more = ["--root", str(tmp_path), *SMALL, *QUICK, "--plan", "--out"]
    assert main(["auto", "--csv", str(first), "--test", str(second), *more, str(tmp_path / "two")]) == 0
    assert sorted(path.name for path in (tmp_path / "two/data").iterdir()) == ["list", "list-test"]
    spaced = second.rename(tmp_path / "My photographs.csv")
    assert main(["auto", "--csv", str(spaced), *more, str(tmp_path / "spaces")]) == 0
    index = str(tmp_path / "two/data/list-test")
    assert main(["auto", "--csv", str(first), "--test", index, *more, str(tmp_path / "mixed")]) == 2
    assert "found a folder, but --csv is a table; expected a table for both" in capsys.readouterr().err
