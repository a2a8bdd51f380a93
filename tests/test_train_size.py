"""`augment.size`: a network learns from smaller images than it is used on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from masksup.config.schema import Config
from masksup.data.split import make_plan, open_source, train_dataset
from masksup.errors import UserError
from masksup.evaluation.blocks import image_blocks
from masksup.models.backbones import takes_any_side
from masksup.selection.ladder import StartingPoint, ladder
from masksup.training.train import train

MakeConfig = Callable[..., Config]


def test_training_images_alone_are_smaller(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config(epochs=1, augment__size=24)
    source = open_source(config.data, config.seed)
    assert train_dataset(config, source.train, make_plan(config, source.train))[0]["image"].shape == (3, 24, 24)
    assert source.eval is not None
    images, *_ = next(iter(image_blocks(source.eval, config, range(1))))
    assert images.shape[2:] == (32, 32)
    assert train(config, tmp_path / "run") == 0


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (
            {"model__backbone": "test_vit", "model__size": 64},
            r"augment\.size: test_vit, built for 64 pixels, cannot take",
        ),
        ({"method__name": "masksup"}, r"augment\.size: found 24, but method masksup is made for images of model\.size"),
        ({"model__frozen": True}, r"augment\.size: 24 does not go with model\.frozen"),
    ],
)
def test_what_cannot_learn_from_other_sizes_is_refused(
    more: dict[str, object], line: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=line):
        train(tiny_config(augment__size=24, **more), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_ladder_uses_what_it_fine_tunes_at_a_larger_size_where_it_can() -> None:
    assert takes_any_side("test_resnet", 64)
    assert not takes_any_side("test_vit", 64)
    sides = []
    for any_side in (True, False):
        rung = next(r for r in ladder(StartingPoint("net", "file.pth", 224, 0, any_side)) if r.name == "finetuned-224")
        sides.append((rung.settings["augment"].get("size"), rung.settings["model"]["size"]))
    assert sides == [(224, 320), (None, 224)]
