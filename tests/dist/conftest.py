"""Fixtures of the tests on several ranks."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from ranks import Launcher, Zygote, launcher

from masksup.config.load import to_yaml
from masksup.config.schema import Config

WriteConfig = Callable[..., Path]


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    started = Zygote()
    yield started
    started.close()


@pytest.fixture
def job(zygote: Zygote, tmp_path: Path) -> Iterator[Launcher]:
    with launcher(zygote, tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def write_config(tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> WriteConfig:
    """A file with `tiny_config`, four micro-batches a step, and buckets so small that there are several."""

    def write(**overrides: object) -> Path:
        fixed = {
            "batch": {"global": 16, "micro": 4}, "eval__batch": 6, "parallel__bucket_mb": 0.02,
            "parallel__start_seconds": 60, "parallel__first_step_seconds": 60,
        }  # fmt: skip
        file = tmp_path_factory.mktemp("config") / "config.yaml"
        file.write_text(to_yaml(tiny_config(**{**fixed, **overrides})))
        return file

    return write
