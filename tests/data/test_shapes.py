"""The synthetic data set: the same bytes for one seed, boxes on their pixels, lists that agree with the XML."""

import hashlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from masksup.data.index import DIFFICULT, OCCLUDED, TRUNCATED
from masksup.data.shapes import draw_shapes, prepare_shapes
from masksup.data.shapes_picture import CLASSES, draw_image
from masksup.errors import UserError


def digest(root: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(p for p in root.rglob("*") if p.is_file()):
        total.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    draw_shapes(folder, train=60, val=30, test=30, size=96, seed=5)
    return folder


def test_same_seed_same_bytes_other_seed_other_bytes(root: Path, tmp_path: Path) -> None:
    for seed in (5, 6):
        draw_shapes(tmp_path / str(seed), train=60, val=30, test=30, size=96, seed=seed)
    assert digest(tmp_path / "5") == digest(root) != digest(tmp_path / "6")


def test_an_image_does_not_depend_on_how_many_are_drawn(root: Path, tmp_path: Path) -> None:
    draw_shapes(tmp_path, train=3, val=1, test=1, size=96, seed=5)
    image = "VOCdevkit/VOC2007/JPEGImages/000002.jpg"
    assert (tmp_path / image).read_bytes() == (root / image).read_bytes()


def test_lists_and_xml_agree_through_the_real_preparer(root: Path) -> None:
    contents = {c.split: c for c in prepare_shapes(root, train=60, val=30, test=30, size=96, seed=5)}
    assert {s: len(c.ids) for s, c in contents.items()} == {"train": 60, "val": 30, "trainval": 90, "test": 30}
    for content in contents.values():
        assert content.classes == CLASSES
        assert content.note == "synthetic"
        assert not content.warnings, "the preparer compares the per-class lists with the XML files"
        assert ((content.labels_NC == 1).any(axis=1)).mean() > 0.95
    main = root / "VOCdevkit/VOC2007/ImageSets/Main"
    stated = {word for file in main.glob("*_trainval.txt") for word in file.read_text().split()[1::2]}
    assert stated == {"1", "0", "-1"}
    assert not {*contents["train"].ids} & {*contents["val"].ids} | {*contents["trainval"].ids} & {*contents["test"].ids}


def test_every_kind_of_object_occurs(root: Path) -> None:
    content = next(c for c in prepare_shapes(root, train=60, val=30, test=30, size=96, seed=5) if c.split == "trainval")
    for flag in (DIFFICULT, TRUNCATED, OCCLUDED):
        assert (content.box_flags_M & flag).any()
    assert set(content.box_class_M.tolist()) == set(range(12))
    shares = content.box_share_M
    for low, high in ((0.0, 0.04), (0.04, 0.12), (0.12, 1.0)):
        assert ((shares >= low) & (shares < high)).mean() > 0.1


def test_boxes_are_the_visible_extent_and_flags_follow_their_definition() -> None:
    for number in range(150):
        pixels, objects = draw_image(96, 0, number)
        assert pixels.shape == (96, 96, 3)
        assert objects
        claimed = np.zeros((96, 96), int)
        for o in objects:
            x1, y1, x2, y2 = o.box()
            inside = np.zeros((96, 96), bool)
            inside[y1:y2, x1:x2] = True
            assert not (o.visible_HW & ~inside).any()
            for edge in (o.visible_HW[y1, :], o.visible_HW[y2 - 1, :], o.visible_HW[:, x1], o.visible_HW[:, x2 - 1]):
                assert edge.any()
            assert not (o.visible_HW & ~o.inside_HW).any()
            claimed += o.visible_HW
            hidden = 1 - o.visible_HW.sum() / o.inside_HW.sum()
            assert o.occluded() == (hidden > 0.1)
            assert o.seen() >= 0.15
            assert o.difficult() == (o.seen() < 0.35 or min(x2 - x1, y2 - y1) < 0.08 * 96)
            touches = x1 == 0 or y1 == 0 or x2 == 96 or y2 == 96
            assert touches or not o.truncated() or o.occluded()
        assert claimed.max() <= 1, "a pixel belongs to one object"
        # The last one drawn is hidden by nothing.
        assert (objects[-1].visible_HW == objects[-1].inside_HW).all()


def test_an_object_is_where_its_box_says() -> None:
    """Blind check on pixels: an isolated object differs from the background around it."""
    contrasts = []
    for number in range(200):
        pixels, objects = draw_image(96, 1, number)
        if len(objects) == 1 and objects[0].seen() > 0.99:
            color = pixels[objects[0].visible_HW].astype(float).mean(axis=0)
            around = pixels[~objects[0].visible_HW].astype(float).mean(axis=0)
            contrasts.append(np.abs(color - around).max())
    assert len(contrasts) > 20
    assert np.median(contrasts) > 60


def test_annotations_are_voc_xml(root: Path) -> None:
    for file in sorted((root / "VOCdevkit/VOC2007/Annotations").glob("*.xml")):
        tree = ElementTree.parse(file).getroot()
        assert tree.findtext("filename") == f"{file.stem}.jpg"
        with Image.open(root / "VOCdevkit/VOC2007/JPEGImages" / f"{file.stem}.jpg") as image:
            assert image.size == (int(tree.findtext("size/width", "")), int(tree.findtext("size/height", "")))
        for node in tree.iter("object"):
            assert node.findtext("name") in CLASSES
            xmin, ymin, xmax, ymax = (int(node.findtext(f"bndbox/{k}", "")) for k in ("xmin", "ymin", "xmax", "ymax"))
            assert 1 <= xmin <= xmax <= 96
            assert 1 <= ymin <= ymax <= 96
            assert {node.findtext(k) for k in ("difficult", "truncated", "occluded")} <= {"0", "1"}


def test_what_is_there_is_kept_or_refused(root: Path, tmp_path: Path) -> None:
    before = digest(root)
    draw_shapes(root, train=60, val=30, test=30, size=96, seed=5)
    assert digest(root) == before
    with pytest.raises(UserError, match=r"shapes\.json: found size 96, expected 64"):
        draw_shapes(root, train=60, val=30, test=30, size=64, seed=5)
    (tmp_path / "VOCdevkit").mkdir()
    with pytest.raises(UserError, match="found a folder that shapes did not draw"):
        draw_shapes(tmp_path, train=1, val=1, test=1, size=96, seed=5)


def test_an_interrupted_drawing_leaves_nothing_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(size: int, seed: int, number: int) -> object:
        if number == 2:
            raise KeyboardInterrupt
        return draw_image(size, seed, number)

    with monkeypatch.context() as patch:
        patch.setattr("masksup.data.shapes.draw_image", interrupted)
        with pytest.raises(KeyboardInterrupt):
            draw_shapes(tmp_path, train=2, val=1, test=1, size=64, seed=0)
    assert not (tmp_path / "VOCdevkit").exists()
    draw_shapes(tmp_path, train=2, val=1, test=1, size=64, seed=0)
    assert len(list((tmp_path / "VOCdevkit/VOC2007/JPEGImages").iterdir())) == 4
