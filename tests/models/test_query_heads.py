"""ML-Decoder and Query2Label: against timm's and torch's layers, by symmetry, by counting."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.ml_decoder import MLDecoder as TimmDecoder
from torch import Tensor, nn

from masksup.config.components import HEADS
from masksup.errors import UserError
from masksup.models.heads.ml_decoder import MLDecoder
from masksup.models.heads.query2label import EncoderLayer, Query2Label, sine_positions

D, E, H, W = 6, 16, 3, 5
SMALL = {"embedding": E, "heads": 4, "feedforward": 32}


def features(seed: int = 1, batch: int = 2) -> Tensor:
    return torch.randn(batch, D, H, W, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ml_decoder(classes: int = 7, **options: object) -> MLDecoder:
    return MLDecoder(D, classes, **{**SMALL, **options}).double().eval()  # type: ignore[arg-type]


def query2label(classes: int = 7, **options: object) -> Query2Label:
    return Query2Label(D, classes, **{**SMALL, **options}).double().eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(("groups", "classes"), [(4, 7), (100, 7), (3, 9)])
def test_ml_decoder_computes_what_timms_does(groups: int, classes: int) -> None:
    theirs = TimmDecoder(classes, num_of_groups=groups, decoder_embedding=768, initial_num_features=D).eval()
    ours = MLDecoder(D, classes, groups=groups).eval()
    state = theirs.state_dict()
    theirs.decoder = theirs.decoder.layers[0]  # torch's nn.TransformerDecoder no longer takes such a layer
    names = {
        "embed.": "embed_standart.", "query_norm.": "decoder.layers.0.norm1.",
        "attention.": "decoder.layers.0.multihead_attn.", "attention_norm.": "decoder.layers.0.norm2.",
        "feedforward.up.": "decoder.layers.0.linear1.", "feedforward.down.": "decoder.layers.0.linear2.",
        "feedforward.norm.": "decoder.layers.0.norm3.", "query": "query_embed.weight",
        "classify.weight": "duplicate_pooling", "classify.bias": "duplicate_pooling_bias",
    }  # fmt: skip
    state["duplicate_pooling_bias"].normal_()
    found = {}
    for name in ours.state_dict():
        prefix = max((p for p in names if name.startswith(p)), key=len)
        found[name] = state[names[prefix] + name.removeprefix(prefix)]
    ours.load_state_dict(found)
    x = features().float()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_fixed_queries_are_saved_and_learned_ones_trained() -> None:
    fixed, learned = ml_decoder(), ml_decoder(queries="learned")
    assert "query" in fixed.state_dict()
    assert "query" not in dict(fixed.named_parameters())
    learned(features()).square().sum().backward()
    assert learned.query.grad is not None
    assert learned.query.grad.abs().sum() > 0


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31))
def test_positions_are_a_set_for_ml_decoder_and_a_map_for_query2label(seed: int) -> None:
    torch.manual_seed(seed)
    x = features(seed)
    moved = x.flatten(2)[..., torch.randperm(H * W)].view_as(x)
    for queries in ("fixed", "learned"):
        head = ml_decoder(queries=queries)
        torch.testing.assert_close(head(moved), head(x))
    for layers in (0, 1):  # the decoder alone tells places apart too
        head = query2label(encoder_layers=layers)
        assert not torch.allclose(head(x.flip(3)), head(x), atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31))
def test_label_queries_carry_the_order_of_the_classes(seed: int) -> None:
    torch.manual_seed(seed)
    x, order = features(seed), torch.randperm(7)
    for head in (query2label(), query2label(self_attention=False, encoder_layers=0), ml_decoder(groups=0)):
        before = head(x)
        with torch.no_grad():
            for value in (head.query, head.classify.weight, head.classify.bias):
                value.copy_(value[order].clone())
        torch.testing.assert_close(head(x), before[:, order])


def test_ml_decoder_group_gives_its_own_classes_only() -> None:
    head = ml_decoder(classes=7, groups=3)  # classes 0-2, 3-5, 6
    before = head(features())
    with torch.no_grad():
        head.query[1] = head.query[0]
    changed = (head(features()) - before).abs().amax(0) > 1e-9
    assert changed.tolist() == [False, False, False, True, True, True, False]


def test_query2label_encoder_layer_is_torchs_transformer_layer_with_places_in_query_and_key() -> None:
    ours = EncoderLayer(E, 4, 32, 0.0).double()
    theirs = nn.TransformerEncoderLayer(E, 4, 32, 0.0, batch_first=True).double()
    theirs.self_attn.load_state_dict(ours.attention.state_dict())
    theirs.norm1.load_state_dict(ours.norm.state_dict())
    theirs.linear1.load_state_dict(ours.feedforward.up.state_dict())
    theirs.linear2.load_state_dict(ours.feedforward.down.state_dict())
    theirs.norm2.load_state_dict(ours.feedforward.norm.state_dict())
    x = torch.randn(2, 5, E, dtype=torch.float64)
    torch.testing.assert_close(ours(x, torch.zeros(5, E, dtype=torch.float64)), theirs(x))


def test_query2label_decoder_is_torchs_where_the_queries_are_the_content() -> None:
    head = query2label(encoder_layers=0, decoder_layers=1)
    layer = head.decoder[0]
    theirs = nn.TransformerDecoderLayer(E, 4, 32, 0.0, batch_first=True).double()
    theirs.multihead_attn.load_state_dict(layer.attention.state_dict())
    memory, x = torch.randn(2, 5, E, dtype=torch.float64), torch.randn(2, 7, E, dtype=torch.float64)
    none = torch.zeros(1, dtype=torch.float64)
    seen = layer(x, none, memory, none)  # type: ignore[operator]
    expected = x + theirs._mha_block(x, memory, None, None)
    torch.testing.assert_close(seen, layer.feedforward(layer.attention_norm(expected)))  # type: ignore[operator,union-attr]


def test_places_are_the_published_sines() -> None:
    place = sine_positions(H, W, torch.empty(1, E)).view(H, W, E)
    for row, column, k in ((0, 0, 0), (2, 4, 3), (1, 3, 2)):
        for offset, coordinate in ((0, (row + 1) / H), (E // 2, (column + 1) / W)):
            angle = 2 * math.pi * coordinate / 10000 ** (2 * k / (E // 2))
            assert place[row, column, offset + 2 * k].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert place[row, column, offset + 2 * k + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


def _count(head: nn.Module) -> int:
    return sum(p.numel() for p in head.parameters())


@pytest.mark.parametrize("classes", [20, 80, 250])
def test_parameters_are_as_many_as_the_formula_says(classes: int) -> None:
    def attention(e: int) -> int:
        return 4 * e * e + 4 * e + 2 * e  # with its norm

    def feedforward(e: int, f: int) -> int:
        return 2 * e * f + e + f + 2 * e

    e, f, width = 768, 2048, 1280
    K = min(100, classes)
    expected = width * e + e + 2 * e + attention(e) + feedforward(e, f) + K * e * -(-classes // K) + classes
    assert _count(MLDecoder(width, classes)) == expected
    assert _count(MLDecoder(width, classes, queries="learned")) == expected + K * e
    e = 512
    layers = 4 * attention(e) + 3 * feedforward(e, f)  # one encoder, two decoder layers, one mutual attention
    assert _count(Query2Label(width, classes)) == width * e + e + layers + 2 * classes * e + classes


@pytest.mark.parametrize("name", ["ml_decoder", "query2label"])
def test_gradients_are_right_and_reach_every_parameter(name: str) -> None:
    torch.manual_seed(0)  # other weights may leave a hidden unit dead at all four positions
    head = HEADS.resolve(name)(D, 3, embedding=8, heads=2, feedforward=5).double().eval()
    x = features(batch=1)[:, :, :2, :2].contiguous().requires_grad_()
    assert torch.autograd.gradcheck(head, (x,))
    head(x).square().sum().backward()
    for parameter_name, parameter in head.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 1e-12, parameter_name


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("ml_decoder", {"groups": -1}, "model.head.groups"),
        ("ml_decoder", {"embedding": 770}, "model.head.embedding"),
        ("ml_decoder", {"heads": 0}, "model.head.embedding"),
        ("ml_decoder", {"dropout": 1.0}, "model.head.dropout"),
        ("query2label", {"embedding": 6, "heads": 2}, "model.head.embedding"),
        ("query2label", {"decoder_layers": 0}, "model.head.decoder_layers"),
        ("query2label", {"feedforward": 0}, "model.head.feedforward"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, float], key: str) -> None:
    with pytest.raises(UserError, match=f"^{key}: found "):
        HEADS.resolve(name)(D, 4, **options)
