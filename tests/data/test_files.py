import multiprocessing
import pickle
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import default_loader
from torchvision.transforms.functional import pil_to_tensor

from sslbench.data import load
from sslbench.data.files import ImageFiles
from sslbench.data.image_ops import sizes_of
from sslbench.data.sources.image_folder import _splits
from sslbench.data.split import ImageArray
from sslbench.errors import UserError

SIZES = [(20, 30), (12, 8), (9, 9), (30, 14)]  # height, width
EVERY = torch.arange(len(SIZES))


def picture(height, width, seed=0, detail=3):
    """Smooth colours: JPEG keeps them nearly."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (detail, detail, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def files(tmp_path):
    """Images of several sizes and formats."""
    names = ["a.jpg", "b.png", "c.bmp", "d.webp"]
    for seed, (name, size) in enumerate(zip(names, SIZES, strict=True)):
        picture(*size, seed).save(tmp_path / name)
    return ImageFiles(tmp_path, names, np.arange(4), workers=2)


def equal(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_batch_is_what_torchvision_decodes(files):
    index = torch.tensor([2, 0, 0, 3, 1])
    batch = files[index]
    assert batch.index.tolist() == batch.target.tolist() == index.tolist()
    assert [image.shape for image in batch.images] == [(3, *SIZES[i]) for i in index]
    for i, image in zip(index.tolist(), batch.images, strict=True):
        assert torch.equal(image, pil_to_tensor(default_loader(files.root / files.paths[i])))


def test_an_empty_batch(files):
    batch = files[torch.zeros(0, dtype=torch.long)]
    assert batch.images == []
    assert sizes_of(batch.images).shape == (0, 2)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_nothing(files, workers):
    other = ImageFiles(files.root, files.paths, files.labels, workers=workers)
    assert equal(other[EVERY].images, files[EVERY].images)
    assert other.hash == files.hash


def test_workers_come_from_the_environment(files, monkeypatch):
    monkeypatch.setenv("SSLBENCH_WORKERS", "5")
    assert ImageFiles(files.root, files.paths, None).workers == 5


def test_it_can_be_sent_to_another_process(files):
    expected = files[EVERY].images  # the threads of this process run now
    assert equal(pickle.loads(pickle.dumps(files))[EVERY].images, expected)


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_it_works_after_a_fork(files):
    expected = files[EVERY].images
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def read():
        there.send([image.numpy() for image in files[EVERY].images])

    child = context.Process(target=read, daemon=True)
    child.start()
    assert here.poll(30)
    assert equal(map(torch.from_numpy, here.recv()), expected)
    child.join(30)
    assert child.exitcode == 0


def test_the_hash_tells_paths_sizes_labels_and_limit_but_not_the_place(files, tmp_path):
    def made(root=files.root, paths=files.paths, labels=files.labels, **more):
        return ImageFiles(root, paths, labels, **more).hash

    (tmp_path / "elsewhere").mkdir()
    for name in files.paths:
        (tmp_path / "elsewhere" / name).write_bytes((files.root / name).read_bytes())
    assert made() == made(root=tmp_path / "elsewhere") == files.hash
    others = [made(paths=files.paths[::-1]), made(labels=files.labels[::-1]), made(limit=100)]
    with (files.root / "a.jpg").open("ab") as file:
        file.write(b"\0")
    assert len({files.hash, made(), made(labels=None), *others}) == 6


def assert_rounded_alike(found: Tensor, expected: Tensor) -> None:
    """Bytes that differ by 1 at most, and hardly anywhere."""
    apart = (found.int() - expected.int()).abs()
    assert apart.max() <= 1
    assert apart.float().mean() < 0.01


def test_large_images_are_reduced_to_the_limit(tmp_path):
    whole = picture(400, 300, detail=15)
    whole.save(tmp_path / "large.jpg", quality=95)
    whole.save(tmp_path / "large.png")
    whole.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "wide.png")
    split = ImageFiles(tmp_path, ["large.jpg", "large.png", "wide.png"], None, limit=60)
    batch = split[torch.arange(3)]
    assert batch.target is None
    assert sizes_of(batch.images).tolist() == [[80, 60], [80, 60], [60, 80]]
    reduced = pil_to_tensor(whole.resize((60, 80), Image.Resampling.BICUBIC)).int()
    assert_rounded_alike(batch.images[1], reduced)
    assert (batch.images[0].int() - reduced).abs().float().mean() < 3
    assert equal(batch.images, split[torch.arange(3)].images)


def test_every_mode_becomes_rgb(tmp_path):
    colour = picture(6, 5)
    modes = {"L": "png", "1": "png", "P": "png", "RGBA": "png", "LA": "png", "CMYK": "jpg"}
    names = [f"{mode}.{kind}" for mode, kind in modes.items()]
    for mode, name in zip(modes, names, strict=True):
        colour.convert(mode).save(tmp_path / name)
    holes = colour.convert("P")
    holes.save(tmp_path / "holes.png", transparency=bytes(range(200)))
    batch = ImageFiles(tmp_path, [*names, "holes.png"], None)[torch.arange(7)]
    assert sizes_of(batch.images).tolist() == [[6, 5]] * 7
    assert torch.equal(batch.images[0], pil_to_tensor(colour.convert("L")).expand(3, 6, 5))
    assert torch.equal(batch.images[3], pil_to_tensor(colour))
    assert torch.equal(batch.images[6], batch.images[2])


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.jpg", lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2])),
        ("b.png", lambda p: p.write_bytes(p.read_bytes()[:60])),
        ("c.bmp", lambda p: p.write_bytes(b"no image at all")),
        ("d.webp", lambda p: p.write_bytes(b"")),
        ("b.png", lambda p: Image.fromarray(np.zeros((4, 4), np.uint16)).save(p)),
    ],
    ids=["jpeg", "png", "text", "empty", "16 bits"],
)
def test_a_corrupt_image_is_named(files, name, write):
    write(files.root / name)
    with pytest.raises(UserError, match=f"{files.root / name} cannot be read: "):
        files[EVERY]


def test_a_missing_image_is_named(files):
    with pytest.raises(UserError, match=r"none\.png is missing"):
        ImageFiles(files.root, ["none.png"], None)
    with pytest.raises(ValueError, match="4 paths, but 3 labels"):
        ImageFiles(files.root, files.paths, np.arange(3))


def test_in_memory_wants_one_size(files):
    with pytest.raises(ValueError, match="several sizes"):
        files.in_memory()
    same = ImageFiles(files.root, ["c.bmp", "c.bmp"], np.array([0, 1]))
    held = same.in_memory()
    assert isinstance(held, ImageArray)
    assert equal(held[torch.arange(2)].images, same[torch.arange(2)].images)
    assert held.labels.tolist() == [0, 1]


def fill(root, counts):
    """Image folders: path → number of images."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for i in range(count):
            picture(6, 6, i).save(root / folder / f"{i:02d}.png")


def sizes(data):
    return {name: len(split) for name, split in data.splits.items()}


def test_a_plain_image_folder_is_carved(tmp_path):
    fill(tmp_path, {"cat": 20, "dog/puppies": 5, "dog/old": 5, ".hidden": 3})
    (tmp_path / "cat" / "notes.txt").touch()
    (tmp_path / "cat" / "._00.png").touch()
    data = load(f"folder:{tmp_path}")
    assert data.class_names == ("cat", "dog")
    assert sizes(data) == {"train": 21, "validation": 3, "test": 6}
    assert data.chance == 4 / 6
    joined = np.concatenate([data[n].labels for n in ("train", "validation", "test")])
    assert np.bincount(joined).tolist() == [20, 10]
    batch = data["test"][torch.arange(6)]
    assert batch.target.tolist() == [0, 0, 0, 0, 1, 1]


def test_given_splits_are_kept(tmp_path):
    fill(tmp_path, {f"{p}/{c}": n for p, n in (("train", 10), ("test", 3)) for c in "ab"})
    assert sizes(load(f"folder:{tmp_path}")) == {"train": 18, "validation": 2, "test": 6}
    fill(tmp_path, {"val/a": 4})
    names, parts = _splits(tmp_path, 0.1)
    assert names == ["a", "b"]
    assert {n: len(p) for n, p in parts.items()} == {"train": 20, "validation": 4, "test": 6}


def test_without_test_the_validation_folder_is_the_test_split(tmp_path):
    fill(tmp_path, {"train/a": 10, "train/b": 10, "val/a": 3, "val/b": 3})
    assert sizes(load(f"folder:{tmp_path}")) == {"train": 18, "validation": 2, "test": 6}


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, {"train": 10, "bus": 10})
    assert load(f"folder:{tmp_path}").class_names == ("bus", "train")


def test_imagenet_is_a_folder_below_the_data_root(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLBENCH_DATA", str(tmp_path))
    with pytest.raises(UserError, match="imagenet is not a folder"):
        load("imagenet")
    fill(tmp_path / "imagenet", {"train/n01": 2, "val/n01": 1})
    with pytest.raises(UserError, match="imagenet: 1000 classes expected, 1 found"):
        load("imagenet")


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "found no image"),
        ({"a": 0}, "found no image"),
        ({"train/a": 2, "test/b": 2}, r"classes \['b'\] are not among those of train"),
    ],
    ids=["empty", "no images", "other classes"],
)
def test_an_unfit_folder_is_an_error(tmp_path, counts, message):
    fill(tmp_path, counts)
    with pytest.raises(UserError, match=message):
        load(f"folder:{tmp_path}")
    with pytest.raises(UserError, match="is not a folder"):
        load(f"folder:{tmp_path / 'nowhere'}")


@pytest.mark.parametrize("size", [(40, 60), (131, 97), (250, 260), (900, 480)])
@pytest.mark.parametrize("options", [{}, {"progressive": True, "subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_has_pillows_pixels_at_every_scale(size, options, mode, tmp_path):
    picture(*size, detail=9).convert(mode).save(tmp_path / "a.jpg", **options)
    limit = 60
    with Image.open(tmp_path / "a.jpg") as image:
        wanted = image.size
        if min(wanted) > limit:
            wanted = tuple(max(limit, round(side * limit / min(image.size))) for side in wanted)
            image.draft("RGB", wanted)
        expected = pil_to_tensor(image.convert("RGB"))
        if image.size != wanted:
            size = wanted[::-1]
            expected = F.interpolate(expected[None], size, mode="bicubic", antialias=True)[0]
    (found,) = ImageFiles(tmp_path, ["a.jpg"], None, limit=limit)[torch.tensor([0])].images
    assert torch.equal(found, expected)
