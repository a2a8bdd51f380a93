"""Everything registered, on a GPU that does not exist: no wait, no mix-up of devices, no chance in the result."""

from collections.abc import Callable
from typing import Any

import pytest

from masksup.config.components import HEADS, LOSSES, METHODS

Ask = Callable[[dict[str, Any]], dict[str, Any]]
Tree = dict[str, Any]


# Sizes that make a step quick; a part that is not named here has its defaults.
SMALL = {"embedding": 64, "heads": 4, "feedforward": 64}
HEAD_OPTIONS: dict[str, Tree] = {"csra": {"heads": 4}, "ml_decoder": SMALL, "query2label": SMALL}
METHOD_OPTIONS: dict[str, Tree] = {"masksup": {"bank": 8}, "mcar": {"top": 2}}
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul")
# The small relatives of what configurations use and what differs from it in kind: convolutions of all fashions,
# attention in windows, in groups and over all, positions that are learnt, turned or none.
BACKBONES = (
    "test_resnet", "test_vit", "test_vit2", "test_vit3", "test_vit4", "test_efficientnet", "test_efficientnet_evos",
    "test_convnext", "test_convnext2", "test_convnext3", "test_byobnet", "test_nfnet", "test_mambaout", "resnet18",
    "resnetblur18", "resnest14d", "regnety_002", "tresnet_m", "mobilenetv3_small_050", "efficientnet_lite0",
)  # fmt: skip
# Methods that need class maps, and the heads that have them.
TAKES = {"mcar": ("linear",), "puzzle": ("linear", "csi"), "oass": ("linear", "csi")}

PAIRS = [(method, head) for method in METHODS.entries for head in HEADS.entries if head in TAKES.get(method, (head,))]


def case(method: str = "baseline", head: str = "linear", **sections: Tree) -> Tree:
    """The request for a run of a small network with a moving average and clipping."""
    tree: Tree = {
        "data": {"train": "-"},
        "model": {
            "backbone": "test_resnet", "size": 64, "head": {"name": head, **HEAD_OPTIONS.get(head, {})},
        },
        "method": {"name": method, **METHOD_OPTIONS.get(method, {})},
        "optim": {"name": "adamw", "lr": 1e-3, "clip": 1.0},
        "batch": {"global": 2},
        "precision": {"threads": 1},
        "ema": {"decay": 0.9},
        "eval": {"batch": 2},
    }  # fmt: skip
    for section, options in sections.items():
        tree[section] = {**tree.get(section, {}), **options}
    return {"tree": tree}


def assert_clean(answer: Tree) -> None:
    assert answer["found"] == [], answer["trace"]


@pytest.mark.parametrize(("method", "head"), PAIRS)
def test_method_and_head(fake_cuda: Ask, method: str, head: str) -> None:
    assert_clean(fake_cuda(case(method, head)))


def test_an_evaluation_takes_the_scores_of_a_block_once_the_next_is_under_way(fake_cuda: Ask) -> None:
    answer = fake_cuda(case())
    assert_clean(answer)
    assert answer["events"] == [
        "record 0", "record 1", "wait 0", "take 0", "record 2", "wait 1", "take 1", "wait 2", "take 2",
    ]  # fmt: skip


@pytest.mark.parametrize("name", LOSSES.entries)
def test_loss(fake_cuda: Ask, name: str) -> None:
    assert_clean(fake_cuda(case(loss={"name": name})))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_optimiser_in_each_precision(fake_cuda: Ask, name: str, dtype: str) -> None:
    batch = {"global": 4, "micro": 2}
    assert_clean(fake_cuda(case(optim={"name": name}, precision={"dtype": dtype}, batch=batch)))


def test_blur_pooling(fake_cuda: Ask) -> None:
    model = {"backbone": "resnetblur18", "head": {"name": "linear"}, "size": 64}
    assert_clean(fake_cuda(case(model=model)))


@pytest.mark.parametrize("head", ["ml_decoder", "query2label"])
def test_the_transformers_of_heads_compute_in_bf16_and_their_logits_in_fp32(fake_cuda: Ask, head: str) -> None:
    answer = fake_cuda(case(head=head))
    assert_clean(answer)
    operators = answer["operators"]
    products = {name: count for name, count in operators.items() if name.split()[0] in PRODUCTS}
    # The classifier is one product of batches, with its two gradients.
    assert {name: count for name, count in products.items() if name.endswith("float32")} == {"bmm float32": 3}
    assert products["addmm bfloat16"] >= 4
    assert all(not name.endswith("float32") for name in operators if "attention" in name)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(("method", "head"), PAIRS)
def test_everything_on_relatives_of_all_backbones(fake_cuda: Ask, method: str, head: str, backbone: str) -> None:
    model = {"backbone": backbone, "head": {"name": head, **HEAD_OPTIONS.get(head, {})}}
    request = case(method, head, model=model)
    if method in ("puzzle", "oass") and backbone.startswith("test_vit"):
        request["tree"]["method"]["tile"] = 64
    assert_clean(fake_cuda(request))


def test_attention_is_deterministic_only_where_determinism_is_strict(fake_cuda: Ask) -> None:
    request = case(head="ml_decoder")
    assert_clean(fake_cuda(request))
    found = fake_cuda({**request, "warn_only": True})["found"]
    assert any("attention_backward is not deterministic" in line for line in found), found
