"""The recipes for one's own images: what their comments and the docs say to change is changed, and fits.

Weights of these networks cannot be had here. Names and shapes are checked at full size without memory, and small
relatives of the networks with random weights go through the whole of it.
"""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from compare import final_state

from masksup.config.load import load_config
from masksup.engine.build import new_network
from masksup.models.layers import layer_scales
from masksup.models.lora import add_lora
from masksup.models.weights import load_state
from masksup.training.train import train

ROOT = Path(__file__).resolve().parents[1]
MODERN = ROOT / "configs" / "modern"
PROBES, ADAPTED, FULL = (sorted(MODERN.glob(f"mine_*_{kind}.yaml")) for kind in ("probe", "lora", "full"))
STARTS = (*PROBES, *ADAPTED, *FULL)
SMALL = {"depth": 1, "embed_dim": 96, "num_heads": 2}
RELATIVES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "DINOv3": ("vit_small_patch16_dinov3", 64, SMALL),
    "SigLIP 2": ("vit_base_patch16_siglip_256", 64, SMALL),
    "Perception Encoder": ("vit_pe_core_tiny_patch16_384", 64, SMALL),
    "EVA-02": ("eva02_tiny_patch14_224", 56, SMALL),
}


def offered(file: Path, key: str) -> list[str]:
    """The lines that the comments of a file offer for the line of `key`."""
    return re.findall(rf"^#   ({key}: .*?)(?:\s+#.*)?$", file.read_text(), flags=re.MULTILINE)


def backbones(file: Path) -> list[str]:
    return [load_config(file)[0].model.backbone, *(line.split()[1] for line in offered(file, "backbone"))]


# The first of each file; the others, which a user gets by changing a line, in the long tests.
NAMES = [
    pytest.param(name, marks=pytest.mark.slow if later else []) for file in FULL
    for later, name in enumerate(backbones(file))
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_of_each_network_would_fit_at_full_size(name: str) -> None:
    """timm has network and weights tag, its names are those of the trunk here, and it knows its layers."""
    [file] = [file for file in FULL if name in backbones(file)]
    config = load_config(file, [f"model.backbone={name}"])[0]
    with torch.device("meta"):
        network = new_network(config, 80)
        report = load_state(network.backbone, timm.create_model(name).state_dict(), "timm")
        trunk = network.backbone
        assert network.head(torch.empty(2, trunk.width, trunk.grid, trunk.grid)).shape == (2, 80)
    assert report.matched == len(trunk.model.state_dict())
    lowest = min(scale for _, scale in layer_scales(trunk, config.optim.layer_decay).values())
    assert 0.01 < lowest < 0.05, "the stem is trained, and little"


def test_probe_lora_and_fine_tuning_offer_the_same_networks() -> None:
    assert len(FULL) == 2
    for others in (PROBES, ADAPTED):
        assert [backbones(file) for file in others] == [backbones(file) for file in FULL]


@pytest.mark.parametrize("file", ADAPTED, ids=lambda file: file.stem)
def test_lora_adds_to_a_small_part_of_the_network_at_full_size(file: Path) -> None:
    config = load_config(file)[0]
    with torch.device("meta"):
        network = new_network(config, 80)
        whole = sum(one.numel() for one in network.backbone.parameters())
        add_lora(network.backbone, config.model.lora, config.seed)
    added = sum(one.numel() for one in network.backbone.parameters() if one.requires_grad)
    assert 0.01 * whole < added < 0.05 * whole


@pytest.mark.parametrize("line", offered(MODERN / "base_start.yaml", "data"))
def test_the_line_of_the_data_may_be_another(line: str, tmp_path: Path) -> None:
    base = (MODERN / "base_start.yaml").read_text()
    (tmp_path / "base_start.yaml").write_text(re.sub("^data: .*$", line, base, count=1, flags=re.MULTILINE))
    for file in STARTS:
        copy = tmp_path / file.name
        copy.write_text(file.read_text())
        data = load_config(copy)[0].data.model_dump(exclude_unset=True)
        expected = yaml.safe_load(line)["data"]
        assert {key: str(value).removeprefix(f"{Path.cwd()}/") for key, value in data.items()} == {
            key: str(value) for key, value in expected.items()
        }


def test_the_commands_of_the_docs_are_right() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^ *masksup train (configs/modern/mine_.*)$", text, flags=re.MULTILINE)
    assert {Path(shlex.split(command)[0]).stem for command in commands} == {file.stem for file in STARTS}
    assert len(commands) == len(STARTS) + 3, "and those on other data"
    for command in commands:
        file, *overrides = (word for word in shlex.split(command, comments=True) if "runs/" not in word or "=" in word)
        load_config(ROOT / file, [word for word in overrides if not word.startswith("--")])


@pytest.mark.parametrize("family", RELATIVES)
def test_small_relatives_go_from_a_file_of_weights_to_a_probe_and_on_to_lora_and_fine_tuning(
    family: str, tiny_data: Path, tmp_path: Path
) -> None:
    name, size, options = RELATIVES[family]
    assert family == "DINOv3" or any(f"# {family}" in line for line in PROBES[-1].read_text().splitlines())
    torch.manual_seed(0)
    weights = tmp_path / "weights.pth"
    torch.save(timm.create_model(name, img_size=2 * size, **options).state_dict(), weights)  # to be resampled
    small = [
        f"model.backbone={name}", f"model.backbone_options={options}", f"model.size={size}", "epochs=0.32",
        "schedule.warmup_epochs=0", "batch.global=16", "batch.micro=8", f"data.train={tiny_data}/train",
        f"data.eval={tiny_data}/val", "data.workers=0", "precision.threads=1", "log.images=0", "log.pr_curves=false",
    ]  # fmt: skip
    probe, adapted, full = (file for file in STARTS if "vit" in file.name)
    assert train(load_config(probe, [*small, f"model.weights={weights}"])[0], tmp_path / "probe") == 0
    begun = load_config(full, [*small, f"model.weights={tmp_path / 'probe'}"])[0]
    assert train(begun, tmp_path / "full") == 0
    assert train(load_config(adapted, [*small, f"model.weights={tmp_path / 'probe'}"])[0], tmp_path / "lora") == 0
    added = {key for key in final_state(tmp_path / "lora") if ".lora_" in key and key.startswith("model/")}
    assert added, "LoRA adds to the trunk"
    before, after = final_state(tmp_path / "probe"), final_state(tmp_path / "full")
    moved = {key for key, value in after.items() if key.startswith("model/") and not torch.equal(value, before[key])}
    assert moved == {key for key in before if key.startswith("model/")}, "the trunk is fine-tuned, too"
    step = 10 * begun.optim.lr  # of AdamW, once
    assert all((after[key] - before[key]).abs().max() <= 1.1 * step for key in moved), "and the head is the probe's"
