"""Files with a valid seal, or none, whose content was made to do harm: refused in one short line, or harmless."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from test_damage import config, decisions, make_exported

import masksup
from masksup.base.words import printable
from masksup.config.yaml_text import parse_yaml
from masksup.data.prepare.coco import prepare_coco
from masksup.data.prepare.json_file import read_json
from masksup.data.prepare.voc_xml import read_annotation
from masksup.engine.build import new_network
from masksup.errors import UserError
from masksup.inference.model_file import SEAL_KEY, open_exported, seal
from masksup.saved.archive import CONFIG, DECISIONS, MODEL, WEIGHTS, read_archive, write_archive
from masksup.saved.packed import Packed, write_packed

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)
Tree = dict[str, Any]
Members = dict[str, bytes]


def refused(read: Callable[[], Any]) -> str:
    """What the user is told, which is one line that can be read, by a person and by a terminal."""
    with pytest.raises(UserError) as caught:
        read()
    told = str(caught.value)
    assert len(told) <= 4100
    assert printable(told) == told
    return told


def in_json(member: str, change: Callable[[Tree], object]) -> Callable[[Members], None]:
    def apply(members: Members) -> None:
        tree = json.loads(members[member])
        change(tree)
        members[member] = json.dumps(tree).encode()

    return apply


def in_weights(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Members], None]:
    def apply(members: Members) -> None:
        tensors = {name: change(value) for name, value in safetensors.torch.load(members[WEIGHTS]).items()}
        members[WEIGHTS] = safetensors.torch.save(tensors)

    return apply


def named(name: str) -> Callable[[Members], None]:
    def apply(members: Members) -> None:
        for member in (MODEL, DECISIONS):
            in_json(member, lambda tree: tree["classes"].__setitem__(0, name))(members)

    return apply


def in_config(change: Callable[[str], str]) -> Callable[[Members], None]:
    return lambda members: members.update({CONFIG: change(members[CONFIG].decode()).encode()})


ARCHIVES: dict[str, tuple[Callable[[Members], None], str]] = {
    "weights of another shape": (in_weights(lambda value: value.flatten()), "of another model"),
    "whole numbers as weights": (in_weights(lambda value: value.int()), "of another model"),
    "complex weights": (in_weights(lambda value: value.to(torch.complex64)), "of another model"),
    "a huge size": (
        lambda members: members.update({WEIGHTS: members[WEIGHTS].replace(b'"shape":[', b'"shape":[99999999,')}),
        "broken safetensors",
    ),
    "a header without end": (lambda members: members.update({WEIGHTS: b"\xff" * 7 + b"\0" * 99}), "broken safetensors"),
    "too few thresholds": (in_json(DECISIONS, lambda tree: tree["thresholds"].pop()), "found 1 numbers, expected 2"),
    "a megabyte in a threshold": (
        in_json(DECISIONS, lambda tree: tree.update(thresholds=["x " * 10**6, 0.5])), "thresholds[0]: found 'x x"
    ),
    "a million classes": (
        in_json(DECISIONS, lambda tree: tree.update(classes=[str(c) for c in range(10**6)])), "expected one of own"
    ),
    "a name that clears the terminal": (named("\x1b[2Jcat"), "control characters"),
    "a name of two lines": (named("cat\nmasksup: all is well"), "control characters"),
    "a name that no file can hold": (named("\ud800"), "control characters"),
    "a name of a megabyte": (named("x" * 10**6), "1 to 200 letters"),
    "no name": (named(""), "1 to 200 letters"),
    "a YAML bomb": (in_config(lambda text: BOMB + text.replace("seed: 0", "seed: *a29")), "unfold"),
    "YAML that runs code": (
        in_config(lambda text: text.replace("seed: 0", "seed: !!python/object/apply:os.abort []")), "constructor"
    ),
    "deep YAML": (in_config(lambda text: "[" * 20_000), "cannot be read"),
    "deep JSON": (lambda members: members.update({MODEL: b'{"a":' * 10**5}), "nested too deeply"),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Members:
    file = tmp_path_factory.mktemp("hostile") / "model.zip"
    tensors = dict(new_network(config(), 2).state_dict())
    facts = ("ab" * 32, 3, 1.5, "live", "note")
    write_packed(
        file, Packed(config(), ("cat", "dog"), decisions(), tensors, "run/step-000000003-a01", *facts), "# card"
    )
    masksup.load(file)
    members = read_archive(file)
    in_json(DECISIONS, lambda tree: tree.pop("sha256", None))(members)
    return members


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_that_is_sealed_and_hostile(name: str, good: Members, tmp_path: Path) -> None:
    change, message = ARCHIVES[name]
    members = dict(good)
    change(members)
    write_archive(tmp_path / "model.zip", members)
    told = refused(lambda: masksup.load(tmp_path / "model.zip"))
    assert message in told
    assert "model.zip" in told


def test_weights_that_are_no_numbers_label_nothing(good: Members, tmp_path: Path) -> None:
    members = dict(good)
    in_weights(lambda value: value * float("nan") if value.is_floating_point() else value)(members)
    write_archive(tmp_path / "model.zip", members)
    model = masksup.load(tmp_path / "model.zip")
    assert "found NaN" in refused(lambda: model.predict([np.zeros((40, 40, 3), np.uint8)]))


def preprocessing(key: str, value: Any) -> Callable[[Tree], object]:
    return lambda card: card["preprocessing"].update({key: value})


CARDS: dict[str, tuple[Callable[[Tree], object], str]] = {
    "a huge size": (preprocessing("size", 10**9), "its input is not"),
    "a size that is no number": (preprocessing("size", True), "preprocessing.size"),
    "more pixels than 64 bits": (preprocessing("max_pixels", 10**30), "preprocessing.max_pixels"),
    "a crop of nothing": (preprocessing("crop_share", 0), "preprocessing.crop_share"),
    "a crop of text": (preprocessing("crop_share", "x"), "preprocessing.crop_share"),
    "EXIF, perhaps": (preprocessing("exif", "no"), "preprocessing.exif"),
    "a colour that is none": (preprocessing("fill", 5), "preprocessing.fill"),
    "two colours": (preprocessing("fill", [0, 0]), "preprocessing.fill"),
    "a colour of text": (preprocessing("fill", ["a", "b", "c"]), "preprocessing.fill"),
    "a colour beyond all": (preprocessing("fill", [999, 0, 0]), "preprocessing.fill"),
    "a mean of a megabyte": (preprocessing("mean", "x" * 10**6), "preprocessing.mean"),
    "batches of nothing": (lambda card: card.update(batch=0), "batch"),
    "batches of text": (lambda card: card.update(batch="x"), "batch"),
    "batches of null": (lambda card: card.update(batch=None), "batch"),
    "facts that are none": (lambda card: card.update(facts=[1]), "facts"),
    "a precision in a list": (lambda card: card.update(precision=["fp32"]), "precision"),
    "a name that clears the terminal": (lambda card: card["decisions"]["classes"].__setitem__(0, "\x1b[2J"), "control"),
}  # fmt: skip


def exported(folder: Path, change: Callable[[Any, Tree], object]) -> Path:
    """A model whose graph or card was changed by someone who knows how to seal it."""
    make_exported(folder / "made")
    model = onnx.load(folder / "made" / "model.onnx")
    props = {prop.key: prop.value for prop in model.metadata_props if prop.key != SEAL_KEY}
    card = json.loads(props["masksup"])
    change(model, card)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {**props, "masksup": json.dumps(card)})
    content = model.SerializeToString()
    (folder / "model.onnx").write_bytes(content + seal(content))
    return folder / "model.onnx"


@pytest.mark.parametrize("name", CARDS)
def test_an_exported_model_with_a_hostile_card(name: str, tmp_path: Path) -> None:
    change, message = CARDS[name]
    file = exported(tmp_path, lambda _, card: change(card))
    told = refused(lambda: open_exported(file))
    assert message in told
    assert str(file) in told


@pytest.mark.parametrize("place", ["../../../etc/passwd", "/dev/zero"])
def test_an_exported_model_reads_no_other_file(place: str, tmp_path: Path) -> None:
    def elsewhere(model: Any, _: Tree) -> None:
        weight = model.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=place)

    assert "onnxruntime cannot read it" in refused(lambda: open_exported(exported(tmp_path, elsewhere)))


def test_an_exported_model_that_gives_more_rows_than_images(tmp_path: Path) -> None:
    def twice(model: Any, _: Tree) -> None:
        model.graph.node[-1].output[0] = "once"
        model.graph.node.append(onnx.helper.make_node("Concat", ["once", "once"], ["logits"], axis=0))

    model = open_exported(exported(tmp_path, twice))
    assert "found numbers of shape (2, 2)" in refused(lambda: model.logits(np.zeros((1, 3, 8, 8), np.uint8)))


# --- What people write ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [BOMB, "{" + BOMB.replace("\n", ",") + "}", "x: " + "[" * 20_000])
def test_a_yaml_bomb_is_never_unfolded(text: str) -> None:
    with pytest.raises(ValueError, match=r"unfold|recursion|expected") as caught:
        parse_yaml(text)
    assert len(str(caught.value)) <= 300


def test_aliases_of_people_are_read() -> None:
    text = "base: &base {lr: 0.1}\na: {<<: *base, seed: 1}\nb: [*base, *base]\n"
    assert parse_yaml(text) == {"base": {"lr": 0.1}, "a": {"lr": 0.1, "seed": 1}, "b": [{"lr": 0.1}] * 2}


DOCTYPE = '<!DOCTYPE a [<!ENTITY b "x"><!ENTITY c "&b;&b;&b;"><!ENTITY d SYSTEM "file:///etc/passwd">]>'
OBJECT = "<object><name>%s</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>%s</object>"


@pytest.mark.parametrize(
    "data",
    [
        f"{DOCTYPE}<annotation>&c;&d;</annotation>".encode(),
        f'<?xml version="1.0" encoding="utf-16"?>{DOCTYPE}<annotation>&c;</annotation>'.encode("utf-16"),
        b'<?xml version="1.0" encoding="utf-7"?>+ADw-+ACE-DOCTYPE a [+ADw-+ACE-ENTITY b "x"+AD4-]><annotation/>',
        b"<annotation>" + b"<a>" * 300_000,
        b"<annotation>" + b"<object>" * 300_000 + b"</object>" * 300_000 + b"</annotation>",
        b"<" + b"x" * 10**6 + b"/>",
        f"<annotation>{OBJECT % ('n', '<difficult>' + '9 ' * 10**6 + '</difficult>')}</annotation>".encode(),
    ],
    ids=["entities", "in UTF-16", "in UTF-7", "deep", "deep objects", "a huge tag", "a huge flag"],
)
def test_an_xml_bomb_is_one_line(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(data)
    assert "a.xml" in refused(lambda: read_annotation(tmp_path / "a.xml"))


def test_a_huge_attribute_is_nobodys_label(tmp_path: Path) -> None:
    text = OBJECT % ("cat", "")
    (tmp_path / "a.xml").write_text(f'<annotation a="{"x" * 10**7}">{text}</annotation>')
    assert read_annotation(tmp_path / "a.xml").names == ("cat",)


@pytest.mark.parametrize("data", [b"[" * 10**6, b'{"a":' * 10**6, b"1" * 10**6], ids=["lists", "objects", "digits"])
def test_a_json_bomb_is_one_line(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(data)
    assert "a.json" in refused(lambda: read_json(tmp_path / "a.json"))


@pytest.mark.parametrize("name", ["\x1b[2J", "two\nlines", "\ud800", "", "x" * 10**6])
def test_annotations_name_no_class_like_this(name: str, tmp_path: Path) -> None:
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": name}]}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train2014").mkdir()
    (tmp_path / "annotations" / "instances_train2014.json").write_text(json.dumps(content))
    assert "as the name of class 1" in refused(lambda: prepare_coco(tmp_path))
