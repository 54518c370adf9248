"""Datasets of objects in boxes: what is read, what is cut, and what is refused."""

import dataclasses
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sslbench.data import load
from sslbench.data.fetch import problem
from sslbench.data.loading import chance_level
from sslbench.data.sources import coco, treecrowns, voc
from sslbench.data.table import find
from sslbench.errors import UserError

PARTS = ("train", "validation", "test")


def everything(split):
    """All examples of a split as one batch."""
    return split[torch.arange(len(split))]


def annotation(objects):
    """Pascal VOC's XML of (name, (xmin, ymin, xmax, ymax), difficult)."""
    items = "".join(
        f"<object><name>{name}</name><difficult>{int(hard)}</difficult>"
        f"<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part><bndbox>"
        + "".join(
            f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        + "</bndbox></object>"
        for name, box, hard in objects
    )
    return f"<annotation><size/>{items}</annotation>"


# treecrowns


@pytest.fixture(scope="module")
def crowns():
    row = find("treecrowns")
    if (found := problem(row)) is not None:
        pytest.skip(f"treecrowns {found}: sslbench fetch treecrowns")
    return load("treecrowns")


def test_treecrowns_are_those_of_the_table(crowns):
    row = find("treecrowns")
    assert {part: len(crowns[part]) for part in PARTS} == row.splits
    assert crowns.hash == row.hash
    assert (crowns.classes, crowns.targets, crowns.chance) == (1, ("boxes",), 0.0)
    counted = {}
    for part in PARTS:
        batch = everything(crowns[part])
        boxes = np.concatenate([objects.boxes for objects in batch.target])
        assert boxes.min() >= 0
        assert boxes.max() <= 128
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert all((~objects.ignored).any() for objects in batch.target)
        counted[part] = sum(int((~objects.ignored).sum()) for objects in batch.target)
    assert counted == {"train": 354, "validation": 118, "test": 340}


def test_no_photograph_or_block_is_in_two_splits(crowns):
    tiles = [{image.numpy().tobytes() for image in everything(crowns[p]).images} for p in PARTS]
    assert len(set.union(*tiles)) == sum(len(crowns[part]) for part in PARTS)
    groups = [set(crowns[part].groups) for part in PARTS]
    assert len(set.union(*groups)) == sum(map(len, groups))
    photographs = [{group // 10_000 for group in its} for its in groups]
    assert photographs == [{0}, {0}, {1, 2, 3}]


def test_treecrowns_are_cut_as_said(tmp_path):
    """Four small photographs, the first 19 tiles high; crowns on, over and beside borders."""
    random = np.random.default_rng(0)
    pixels = [
        random.integers(0, 256, size, dtype=np.uint8)
        for size in ((19 * 128 + 5, 130, 3), (128, 256, 3), (128, 128, 3), (128, 128, 3))
    ]
    drawn = [
        [("Tree", (1, 128 * row + 1, 10, 128 * row + 10), False) for row in range(19)],
        [
            ("Tree", (119, 1, 138, 10), False),  # half of it in each tile
            ("Alive", (124, 21, 143, 40), False),  # 5 of 20 columns in the first
            ("Dead", (257, 50, 270, 60), False),  # beyond the last tile
        ],
        [("Tree", (1, 1, 128, 128), False)],
        [],
    ]
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        for name, array, objects in zip(treecrowns._PHOTOGRAPHS, pixels, drawn, strict=True):
            file = io.BytesIO()
            Image.fromarray(array).save(file, "png")
            archive.writestr(f"deepforest/data/{name}.png", file.getvalue())
            archive.writestr(f"deepforest/data/{name}.xml", annotation(objects))
    treecrowns.reduce({"deepforest": tmp_path / "archive"}, tmp_path)
    names, parts = treecrowns.load(find("treecrowns"), tmp_path)
    assert names == ["tree crown"]
    assert {part: len(parts[part]) for part in PARTS} == {"train": 14, "validation": 4, "test": 3}
    assert parts["validation"].groups.tolist() == [500, 500, 500, 600]
    last = everything(parts["validation"])
    assert np.array_equal(last.images[3], pixels[0][18 * 128 : 19 * 128, :128].transpose(2, 0, 1))
    assert last.target[3].boxes.tolist() == [[0, 0, 10, 10]]
    first, second, third = everything(parts["test"]).target
    assert first.boxes.tolist() == [[118, 0, 128, 10], [123, 20, 128, 40]]
    assert first.ignored.tolist() == [False, True]
    assert second.boxes.tolist() == [[0, 0, 10, 10], [0, 20, 15, 40]]
    assert second.ignored.tolist() == [False, False]
    assert third.boxes.tolist() == [[0, 0, 128, 128]]
    assert third.labels.tolist() == [0]


# Pascal VOC


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


def write_voc(root, year="2007", train="trainval", test="test"):
    folder = root / "VOCdevkit" / f"VOC{year}"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True)
    stems = [f"{i:06d}" for i in range(1, 13)]
    for i, stem in enumerate(stems):
        Image.new("L", (600, 540 if i else 700), 20 * i).save(folder / f"JPEGImages/{stem}.jpg")
        objects = [("dog", (48, 240, 195, 371), False), ("person", (8.5, 12, 352, 498), i == 11)]
        text = annotation(objects[: i % 3] if i < 11 else objects)
        (folder / f"Annotations/{stem}.xml").write_text(text)
    (folder / f"ImageSets/Main/{train}.txt").write_text("\n".join(stems[:10]))
    (folder / f"ImageSets/Main/{test}.txt").write_text("\n".join(stems[10:]) + "\n")
    return folder


@pytest.mark.parametrize(("year", "lists"), [("2007", ()), ("2012", ("train", "val"))])
def test_voc(root, year, lists):
    write_voc(root, year, *lists)
    names, parts = voc.load(find(f"voc{year}-detection"), Path())
    assert (len(names), names[0], names[-1]) == (20, "aeroplane", "tvmonitor")
    assert {part: len(parts[part]) for part in PARTS} == {"train": 9, "validation": 1, "test": 2}
    batch = everything(parts["test"])
    assert [tuple(image.shape) for image in batch.images] == [(3, 540, 600)] * 2
    objects = batch.target[1]
    assert objects.boxes.tolist() == [[47, 239, 195, 371], [7.5, 11, 352, 498]]
    assert objects.boxes.dtype == np.float32
    assert [names[label] for label in objects.labels] == ["dog", "person"]
    assert objects.ignored.tolist() == [False, True]
    empty = [len(objects.boxes) for objects in everything(parts["train"]).target]
    assert 0 in empty
    large = [image for part in PARTS for image in everything(parts[part]).images]
    assert (3, 700, 600) in [tuple(image.shape) for image in large]  # as large as its boxes say


def test_boxes_are_part_of_the_hash(root):
    folder = write_voc(root)
    before = voc.load(find("voc2007-detection"), Path())[1]["test"].hash
    path = folder / "Annotations/000012.xml"
    path.write_text(path.read_text().replace("48", "49"))
    assert voc.load(find("voc2007-detection"), Path())[1]["test"].hash != before


def test_voc_that_is_missing_or_damaged(root):
    with pytest.raises(UserError, match=r"trainval.txt is not there; expected VOC's Annotations/"):
        load("voc2007-detection")
    folder = write_voc(root)
    row = find("voc2007-detection")
    with pytest.raises(UserError, match="4952 test examples expected, 2 found"):
        load("voc2007-detection")
    image = folder / "JPEGImages/000012.jpg"
    content = image.read_bytes()
    image.unlink()
    with pytest.raises(UserError, match=r"000012.jpg is missing"):
        voc.load(row, Path())
    image.write_bytes(content)
    path = folder / "Annotations/000012.xml"
    for text, message in (
        ("<annotation><object>", r"000012.xml: not an annotation in Pascal VOC's format: no elem"),
        ("<html/>", "<annotation> expected, found <html>"),
        (annotation([("dog", (5, 5, 4, 9), False)]), "has no area"),
        (annotation([("dog", ("x", 5, 4, 9), False)]), "could not convert"),
        (annotation([("dgo", (1, 5, 4, 9), False)]), "unknown class 'dgo'; did you mean 'dog'"),
        ("<annotation><object><name>dog</name></object></annotation>", "needs <name> and <bndbox>"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            voc.load(row, Path())
    path.unlink()
    with pytest.raises(UserError, match="expected one annotation for each image"):
        voc.load(row, Path())
    (folder / "ImageSets/Main/test.txt").write_text("\n")
    with pytest.raises(UserError, match=r"test.txt is empty"):
        voc.load(row, Path())


# COCO


def instances(ids, **changes):
    """COCO's annotations of images, two objects and a crowd on each even one."""
    annotations = []
    for image in ids:
        for box, category, crowd in (
            ([1.5, 2, 10, 20], 7, 0),
            ([0, 0, 5, 5], 3, 1),
            ([4, 4, 0, 3], 3, 0),  # no width: left out
        )[: 3 if image % 2 == 0 else 0]:
            about = {"bbox": box, "category_id": category, "iscrowd": crowd, "area": 1}
            annotations.append({"id": len(annotations), "image_id": image, **about})
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "width": 40, "height": 30} for i in ids]
    categories = [{"id": 7, "name": "tree"}, {"id": 3, "name": "crown"}]
    return {
        "images": images[::-1],
        "annotations": annotations,
        "categories": categories,
        **changes,
    }


def write_coco(root, part, ids, place=None, **changes):
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    path = root / "annotations" / f"instances_{part}.json"
    path.write_text(json.dumps(instances(ids, **changes)))
    folder = root / (part if place is None else place)
    folder.mkdir(exist_ok=True)
    for i in ids:
        Image.new("RGB", (40, 30), (10 * i % 250,) * 3).save(folder / f"{i:012d}.jpg")
    return path


def test_coco(root):
    write_coco(root / "coco", "train2017", range(20))
    write_coco(root / "coco", "val2017", range(20, 24))
    row = dataclasses.replace(find("coco2017-detection"), classes=2)
    names, parts = coco.official(row, Path())
    assert names == ["crown", "tree"]
    assert {part: len(parts[part]) for part in PARTS} == {"train": 18, "validation": 2, "test": 4}
    batch = everything(parts["test"])
    assert [int(image[0].float().mean().round()) for image in batch.images] == [200, 210, 220, 230]
    assert [len(objects.boxes) for objects in batch.target] == [2, 0, 2, 0]
    assert batch.target[0].boxes.tolist() == [[1.5, 2, 11.5, 22], [0, 0, 5, 5]]
    assert batch.target[0].labels.tolist() == [1, 0]
    assert batch.target[0].ignored.tolist() == [False, True]


@pytest.mark.parametrize("place", ["train", "images", "."])
def test_any_folder_in_cocos_format(root, place):
    write_coco(root, "train", range(20), place)
    data = load(f"coco:{root}")
    assert {part: len(data[part]) for part in PARTS} == {"train": 14, "validation": 2, "test": 4}
    assert (data.classes, data.class_names, data.targets) == (2, ("crown", "tree"), ("boxes",))
    assert data.chance == chance_level("top1", None, 2) == 0
    assert data["train"].hash != data["test"].hash


def test_given_splits_stay_as_they_are(root):
    for part, ids in (("train", range(6)), ("validation", range(6, 9)), ("test", range(9, 11))):
        write_coco(root, part, ids, "images")
    data = load(f"coco:{root}")
    assert {part: len(data[part]) for part in PARTS} == {"train": 6, "validation": 3, "test": 2}


def test_coco_that_is_missing_or_damaged(root):
    with pytest.raises(UserError, match=r"coco: expected COCO's format, .*found no such folder"):
        load("coco2017-detection")
    row = find(f"coco:{root}")
    path = write_coco(root, "test", range(3))
    with pytest.raises(UserError, match=r"expected annotations/instances_train\*.json; found none"):
        coco.load(row, Path())
    write_coco(root, "train2017", range(9))
    other = [{"id": 3, "name": "crown"}]
    write_coco(root, "test", [1], categories=other)
    with pytest.raises(UserError, match="are not those of train"):
        coco.load(row, Path())
    for content, message in (
        ("[", "not instances in COCO's format: JSONDecodeError"),
        ("[]", "not instances in COCO's format: TypeError"),
        ('{"images": []}', "KeyError: 'categories'"),
        (json.dumps(instances([4], images=[])), "KeyError: 4"),
        (json.dumps(instances([4], categories=[])), "KeyError: 7"),
        (json.dumps(instances([], images=[])), "0 images and 2 categories found"),
        (json.dumps(instances([77])), r"there is no image '000000000077.jpg' in any of"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            coco.load(row, Path())
    path.unlink()
    write_coco(root, "train2014", range(3))
    with pytest.raises(UserError, match=r"instances_train2014.json and .* are both train"):
        coco.load(row, Path())
    write_coco(root, "minival", range(3))
    with pytest.raises(UserError, match="unknown split 'minival'; expected instances_train"):
        coco.load(row, Path())
