"""What the documentation tells people to type is run as it stands there."""

import importlib
import random
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image, ImageDraw

import masksup
from masksup.cli import COMMANDS, main, parse
from masksup.config.components import DATASETS, HEADS, LOSSES, METHODS
from masksup.config.load import load_config
from masksup.config.registry import Registry
from masksup.config.schema import Config
from masksup.data.index import open_index
from masksup.runtime.metrics_rows import read_rows
from masksup.training.train import train

MakeConfig = Callable[..., Config]
ROOT = Path(__file__).resolve().parents[1]
OF_DETAILS = {"1711.02512", "1804.07723"}  # a pooling, pictures of masks
SMALL = [
    "model.backbone=test_resnet", "model.weights=none", "model.size=32", "epochs=2", "batch.global=8",
    "data.workers=0", "precision.threads=1",
]  # fmt: skip


def block(document: str, mark: str, language: str) -> str:
    """The fenced block that follows the comment `mark`."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.findall(rf"<!-- {re.escape(mark)} -->\n```{language}\n(.*?)```", text, flags=re.DOTALL)
    assert len(found) == 1, f"{document}: {len(found)} blocks marked '{mark}'"
    return str(found[0])


def take_photographs(folder: Path) -> None:
    """photos/ with the CSV files of the README beside it, and new_photos/: two kinds of fruit, or none."""
    rng = random.Random(0)
    for split, count, place in (("train", 16, "photos"), ("val", 8, "photos"), ("new", 3, "new_photos")):
        (folder / place).mkdir(exist_ok=True)
        rows = ["image,labels"]
        for number in range(count):
            picture = Image.new("RGB", (48, 40), tuple(rng.randrange(90, 160) for _ in range(3)))
            draw, labels = ImageDraw.Draw(picture), []
            if number % 2:
                draw.ellipse((4, 4, 20, 20), fill=(220, 40, 40))
                labels.append("apple")
            if number % 3 == 0:
                draw.rectangle((26, 8, 44, 36), fill=(60, 160, 40))
                labels.append("pear")
            picture.save(folder / place / f"{split}{number}.jpg")
            rows.append(f"{split}{number}.jpg,{'|'.join(labels)}")
        if split != "new":
            (folder / f"{split}.csv").write_text("\n".join(rows) + "\n")


def test_the_path_from_ones_own_images_to_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    take_photographs(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(block("README.md", "tested: yaml", "yaml"))
    load_config(Path("mine.yaml"))  # as it stands; what runs below is smaller
    for line in block("README.md", "tested: csv", "sh").splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "masksup"
        assert main([*arguments, *(SMALL if arguments[0] == "train" else [])]) == 0, line
    assert Path("runs/mine/result.json").is_file()
    assert Path("scores.json").is_file()
    assert len(Path("labels.csv").read_text().splitlines()) == 4
    assert len(list(Path("labelled").iterdir())) == 3
    assert capsys.readouterr().out.count(" prediction: ") == 3

    Path("solved.yaml").write_text(block("docs/methods.md", "tested: solved", "yaml"))
    assert main(["train", "solved.yaml", *SMALL]) == 0
    assert "solved: l2" in capsys.readouterr().out

    Path("lora.yaml").write_text(block("docs/methods.md", "tested: lora", "yaml"))
    load_config(Path("lora.yaml"))
    assert main(["train", "lora.yaml", *SMALL, "model.backbone=test_vit"]) == 0
    assert "LoRA: rank 8, alpha 16, on" in capsys.readouterr().out


def test_the_lines_of_python_label_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    take_photographs(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", "csv", "--root", "photos", "--csv", "train.csv", "--csv", "val.csv", "--out", "data"]) == 0
    Path("mine.yaml").write_text("data: {train: data/train, eval: data/val}\n")
    assert main(["train", "mine.yaml", *SMALL, "epochs=1"]) == 0
    assert main(["pack", "runs/mine", "--out", "mine.zip"]) == 0
    for number, name in enumerate(("a.jpg", "b.jpg")):
        Path(f"new_photos/new{number}.jpg").rename(name)
    capsys.readouterr()
    for document in ("README.md", "docs/use.md"):
        exec(block(document, "tested: load", "python"), {})
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 2
        assert all(line.startswith("[") for line in lines)


def test_what_is_to_be_cited_is_this_version_and_every_paper_named() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == masksup.__version__
    papers = {
        identifier["value"].removeprefix("arXiv:") for r in cited["references"] for identifier in r["identifiers"]
    }
    sources = [*(ROOT / "masksup" / "methods").glob("*.py"), *(ROOT / "masksup" / "losses").glob("*.py")]
    sources += [*(ROOT / "masksup" / "models").glob("*.py"), ROOT / "docs" / "methods.md"]
    named = {
        paper for file in sources for paper in re.findall(r"arXiv (\d{4}\.\d{5})", file.read_text(encoding="utf-8"))
    }
    assert named - papers - OF_DETAILS == set()


def test_the_csv_shown_is_one_that_prepare_reads(tmp_path: Path) -> None:
    text = block("README.md", "tested: table", "csv")
    images = [line.split(",")[0] for line in text.splitlines()[1:]]
    for number, image in enumerate(images):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / image)
    (tmp_path / "train.csv").write_text(text)
    assert main(["prepare", "csv", "--root", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    index = open_index(tmp_path / "out" / "train")
    assert len(index) == len(images)
    assert index.classes == ("apple", "pear")


DOCUMENTS = ["README.md", "CONTRIBUTING.md", *(f"docs/{file.name}" for file in sorted((ROOT / "docs").glob("*.md")))]


def anchors(text: str) -> set[str]:
    """What a link into a document may name: its headings as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_points_to_is_there(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for link in [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]:
        name, _, anchor = link.partition("#")
        file = (ROOT / document).parent / name if name else ROOT / document
        assert file.exists(), link
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), link
    for test in re.findall(r"`(tests/[\w/]+\.py)`", text):
        assert (ROOT / test).is_file(), test


def test_the_readme_is_short_and_shows_pictures() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) < 1500
    assert len(re.findall(r"!\[[^]]+\]\(docs/", text)) >= 3
    unlinked = [document for document in DOCUMENTS[2:] if f"]({document}" not in text]
    assert not unlinked


def test_every_command_is_in_the_list() -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"| `masksup {name}" not in text] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_of_the_documents_have_their_options(document: str) -> None:
    """Each line of a block of shell that calls `masksup` is understood; what it does is tested elsewhere."""
    text = (ROOT / document).read_text(encoding="utf-8")
    assert re.findall(r"^ *```\w+ .*", text, flags=re.MULTILINE) == [], "a command beside the fence is no block"
    for block_ in re.findall(r"^ *```sh\n(.*?)```", text, flags=re.DOTALL | re.MULTILINE):
        for line in block_.replace("\\\n", " ").splitlines():
            words = shlex.split(re.split(r" (?:&&|>|\|) ", line)[0], comments=True)
            if words[:1] == ["masksup"] and "..." not in words:
                parse(words[1:])


@pytest.mark.parametrize("registry", [HEADS, LOSSES, METHODS, DATASETS], ids=lambda registry: registry.kind)
def test_the_documents_name_everything_registered(registry: Registry) -> None:
    text = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("methods.md", "data_sets.md"))
    missing = [name for name in registry.entries if not re.search(rf"`(masksup prepare )?{name}`", text)]
    assert not missing


def install(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The example of CONTRIBUTING.md as a module that can be imported; its name."""
    module = f"contributed_{kind}"
    (folder / f"{module}.py").write_text(block("CONTRIBUTING.md", f"tested: {kind}", "python"))
    monkeypatch.syspath_prepend(str(folder))
    return module


def register(kind: str, registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Enter the example under the line shown for it, pointing to the module in `folder`; its name."""
    line = re.fullmatch(
        r'"(\w+)": "masksup\.[\w.]+:(\w+)",', block("CONTRIBUTING.md", f"line: {kind}", "python").strip()
    )
    assert line is not None
    monkeypatch.setitem(registry.entries, line[1], f"{install(kind, folder, monkeypatch)}:{line[2]}")  # type: ignore[arg-type]
    return line[1]


def assert_trains(config: Config, run: Path) -> None:
    """A run of seconds ends, every gradient was finite, and the loss fell."""
    assert train(config, run) == 0
    rows = [row for row in read_rows(run / "metrics.jsonl") if row["kind"] == "train"]
    assert rows[-1]["skipped_steps"] == 0
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize(
    ("kind", "registry", "key", "options"),
    [
        ("head", HEADS, "model__head", {"power": 4}),
        ("loss", LOSSES, "loss", {"margin": 2}),
        ("method", METHODS, "method", {"mirrored": 0.5}),
    ],
)
def test_the_example_of_a_part_trains(
    kind: str, registry: Registry, key: str, options: dict[str, float], tiny_config: MakeConfig, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    name = register(kind, registry, tmp_path, monkeypatch)
    assert_trains(tiny_config(**{key: {"name": name, **options}}), tmp_path / "run")


def test_the_example_of_a_data_set_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = register("dataset", DATASETS, tmp_path, monkeypatch)
    for split, labels in (("train", "cat\ndog\n"), ("val", "dog\n")):
        (tmp_path / "images" / split).mkdir(parents=True)
        Image.new("RGB", (8, 8), (len(labels), 0, 0)).save(tmp_path / "images" / split / "a.jpg")
        (tmp_path / "images" / split / "a.txt").write_text(labels)
    assert main(["prepare", name, "--root", str(tmp_path / "images"), "--out", str(tmp_path / "out")]) == 0
    assert open_index(tmp_path / "out" / "val").classes == ("cat", "dog")
    assert open_index(tmp_path / "out" / "val").labels_NC.tolist() == [[0, 1]]


def test_the_example_of_a_command_runs(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = re.fullmatch(r'"(\w+)": \("(\w+)", (".+")\),', block("CONTRIBUTING.md", "line: command", "python").strip())
    assert line is not None
    module = importlib.import_module(install("command", tmp_path, monkeypatch))
    monkeypatch.setitem(sys.modules, f"masksup.commands.{line[2]}", module)
    monkeypatch.setitem(COMMANDS, line[1], (line[2], line[3]))
    assert train(tiny_config(epochs=1), tmp_path / "run") == 0
    capsys.readouterr()
    assert main([line[1], str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.split() == list(open_index(tiny_config().data.train).classes)
    assert main([line[1], str(tmp_path / "nothing")]) == 2


def test_the_example_of_a_backbone_trains(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = block("CONTRIBUTING.md", "line: backbone", "python")
    assert line.startswith("import masksup.models.plain_net")
    importlib.import_module(install("backbone", tmp_path, monkeypatch))
    model = {"backbone": "plain_net", "size": 32, "backbone_options": {"width": 32}}
    assert_trains(tiny_config(model=model), tmp_path / "run")
