"""The floors of the house: each folder of `masksup` imports from those before it, and from itself."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import pytest

from masksup.config.components import DATASETS, HEADS, LOSSES, METHODS

ROOT = Path(__file__).parents[1]
FLOORS = [
    "errors", "base", "exits", "config", "data", "metrics", "models", "losses", "methods", "decisions", "runtime",
    "engine", "evaluation", "saved", "output", "calibration", "explain", "inference", "export", "training",
    "report", "selection", "replay", "doctor", "track", "api",
    "demo", "smoke", "commands", "cli",
]  # fmt: skip
# Of `launch`: rooms, and modules that are commands. Each imports from itself and from those before it.
LAUNCH = [
    "ledger", "cluster", "sweeps", "start", "watch",
    "submit", "throughput", "submit_command", "sweep_command", "control", "without_submitit", "plain", "file_schemas",
    "__main__",
]  # fmt: skip
LOOSE = {"__init__", "__main__", "cli", "errors", "exits"}
LOADED_WHEN_CALLED = {  # by `masksup.train`, `evaluate` and `load`
    "masksup.api.finished", "masksup.api.train", "masksup.api.evaluate", "masksup.saved.api", "masksup.saved.running",
}  # fmt: skip
# A page of settings is as long as there are settings.
LONG = {"masksup/config/schema.py"}
# Its arguments are those of the page on Python.
CALLED_BY_SETTINGS = {"masksup/__init__.py:evaluate"}
WITHOUT_TORCH = (
    "masksup.decisions", "masksup.inference", "masksup.output.labels", "masksup.config", "masksup.base",
    "masksup.track",
)  # fmt: skip

SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("masksup", "launch", "tools")
    for path in (ROOT / folder).rglob("*.py")
}


def imports(name: str) -> Iterator[str]:
    """The modules of this project that a module imports, anywhere in it, for types only, too."""
    for node in ast.walk(ast.parse(SOURCES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in SOURCES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def floor(name: str) -> int:
    return FLOORS.index(name.split(".")[1])


@pytest.mark.parametrize(
    "name", [name for name in SOURCES if name.startswith("masksup.") and name != "masksup.__main__"]
)
def test_imports_go_down(name: str) -> None:
    for imported in imports(name):
        assert not imported.startswith("launch"), f"{name} imports {imported}"
        if imported.startswith("masksup."):
            assert floor(imported) <= floor(name), f"{name} imports {imported}, which stands above it"


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("launch.")])
def test_the_launcher_imports_go_down(name: str) -> None:
    own = LAUNCH.index(name.split(".")[1])
    for imported in imports(name):
        if imported.startswith("launch."):
            assert LAUNCH.index(imported.split(".")[1]) <= own, f"{name} imports {imported}, which stands above it"
        assert not imported.startswith(("tools", "masksup.commands")), f"{name} imports {imported}"


def test_the_package_itself_imports_nothing_but_for_its_api() -> None:
    assert {imported for imported in imports("masksup") if imported.startswith("masksup")} <= LOADED_WHEN_CALLED


def test_no_circle() -> None:
    """Of modules, within a folder, too."""
    graph = {name: {to for to in imports(name) if to in SOURCES and to != "masksup"} for name in SOURCES}
    while leaves := {name for name, to in graph.items() if not to & graph.keys() - {name}}:
        graph = {name: to for name, to in graph.items() if name not in leaves}
    assert not graph, {name: to & graph.keys() for name, to in graph.items()}


def test_no_module_is_loose() -> None:
    assert {path.stem for path in (ROOT / "masksup").glob("*.py")} == LOOSE


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield f"{path.relative_to(ROOT)}:{node.name}", node.end_lineno - node.lineno + 1


def test_functions_and_files_stay_short() -> None:
    lengths = dict(pair for path in SOURCES.values() for pair in functions(path))
    assert {name: lines for name, lines in lengths.items() if lines > 50} == {}
    assert mean(lengths.values()) < 12
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES.values()}
    assert {name: lines for name, lines in long.items() if lines > 300 and name not in LONG} == {}
    assert long["masksup/training/train.py"] < 150, "the story of a run is read from top to bottom"


def test_functions_take_the_object_that_they_unpack() -> None:
    """Seven arguments at most, but for what is called by its settings."""
    many = {}
    for path in SOURCES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                many[f"{path.relative_to(ROOT)}:{node.name}"] = len([one for one in given if one.arg != "self"])
    called_by_settings = {f"{path}.py:{name}" for path, name in _parts()} | CALLED_BY_SETTINGS
    assert {name for name, arguments in many.items() if arguments > 7} <= called_by_settings


def _parts() -> Iterator[tuple[str, str]]:
    """Of each part that can be chosen by name, the file and the function whose parameters are its options."""
    for registry in (HEADS, LOSSES, METHODS, DATASETS):
        for target in registry.entries.values():
            module, attribute = target.split(":")
            yield module.replace(".", "/"), attribute if registry is DATASETS else "__init__"


def test_one_name_is_one_thing() -> None:
    """Among the classes of `masksup` and `launch`."""
    found: dict[str, list[str]] = {}
    for name, path in SOURCES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not name.startswith("tools"):
                found.setdefault(node.name, []).append(name)
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


@pytest.mark.parametrize("package", WITHOUT_TORCH)
def test_what_a_deployed_model_needs_does_without_torch(package: str) -> None:
    names = [name for name in SOURCES if f"{name}.".startswith(f"{package}.")]
    code = f"import sys, {', '.join(names)}\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
