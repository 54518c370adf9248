import io
import json
import pickle
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from sslbench.data import load, load_train
from sslbench.data.captions import CaptionedImages
from sslbench.data.files import ImageFiles
from sslbench.data.split import ImageArray, Joined
from sslbench.data.table import find
from sslbench.errors import UserError

PARTS = ("train", "validation", "test")


def pixels(seed, height=6, width=5):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(seed, height=6, width=5):
    """A PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels(seed, height, width)).save(file, "png")
    return file.getvalue()


def write_images(folder, count):
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i:02d}.png" for i in range(count)]
    for i, name in enumerate(names):
        (folder / name).write_bytes(encoded(i))
    return names


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def seen(data):
    """The seed of each image, by its caption, and the split that it is in."""
    found = {}
    for part in PARTS:
        batch = data[part][torch.arange(len(data[part]))]
        for image, captions in zip(batch.images, batch.texts, strict=True):
            seed = int(captions[0].split()[-1])
            assert np.array_equal(image.numpy().transpose(1, 2, 0), pixels(seed))
            found[seed] = part
    return found


@pytest.fixture
def array():
    images = np.stack([pixels(i).transpose(2, 0, 1) for i in range(4)])
    return ImageArray(images, np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]))


CAPTIONS = [("zero", "nought"), ("one",), ("two", "a pair", "both"), ("three",)]


def test_captions_come_with_the_images(array):
    split = CaptionedImages(array, CAPTIONS)
    index = torch.tensor([2, 0, 2])
    batch = split[index]
    assert batch.texts == [CAPTIONS[2], CAPTIONS[0], CAPTIONS[2]]
    assert torch.equal(batch.images, array.images[index])
    assert batch.target.tolist() == [0, 0, 0]
    assert batch.index.tolist() == [2, 0, 2]
    assert split.labels is array.labels
    assert split.groups is array.groups
    assert split[torch.zeros(0, dtype=torch.long)].texts == []


def test_captions_come_with_image_files(tmp_path):
    names = write_images(tmp_path, 4)
    split = CaptionedImages(ImageFiles(tmp_path, names, None, workers=2), CAPTIONS)
    batch = pickle.loads(pickle.dumps(split))[torch.tensor([3, 1])]
    assert batch.texts == [("three",), ("one",)]
    assert batch.target is None
    assert np.array_equal(batch.images[0].numpy().transpose(1, 2, 0), pixels(3))


def test_parts_and_joined_splits_keep_captions(array):
    split = CaptionedImages(array, CAPTIONS)
    joined = Joined(split.take(np.array([3, 2])), split.take(np.array([1])))
    batch = joined[torch.tensor([2, 0, 1])]
    assert batch.texts == [CAPTIONS[1], CAPTIONS[3], CAPTIONS[2]]
    assert torch.equal(batch.images, array.images[[1, 3, 2]])


def test_the_hash_tells_images_and_captions(array):
    other = ImageArray(array.images.numpy() // 2, array.labels, array.groups)
    changed = [*CAPTIONS[:3], ("3",)]
    regrouped = [("zero",), ("nought", "one"), *CAPTIONS[2:]]
    splits = [
        CaptionedImages(array, CAPTIONS),
        CaptionedImages(other, CAPTIONS),
        CaptionedImages(array, changed),
        CaptionedImages(array, regrouped),
    ]
    assert len({split.hash for split in splits}) == 4
    assert CaptionedImages(array, list(CAPTIONS)).hash == splits[0].hash


def test_every_image_has_a_caption(array):
    with pytest.raises(ValueError, match="4 images, but captions of 3"):
        CaptionedImages(array, CAPTIONS[:3])
    with pytest.raises(ValueError, match="image 1: no caption"):
        CaptionedImages(array, [("zero",), (), *CAPTIONS[2:]])


# folders


def test_a_csv_file_with_several_lines_per_image(tmp_path):
    names = write_images(tmp_path / "images", 20)
    lines = [f'images/{name},"picture {i}"' for i, name in enumerate(names)]
    lines += [f'images/{names[i]},"again, {i}"' for i in (3, 7)]
    (tmp_path / "captions.csv").write_text("file,caption\n" + "\n".join(lines))
    name = f"captions:{tmp_path}"
    data = load(name)
    assert (data.modality, data.targets, data.classes) == ("image_text", ("captions",), 0)
    assert [len(data[part]) for part in PARTS] == [14, 2, 4]
    assert seen(data).keys() == set(range(20))
    texts = [text for part in PARTS for text in data[part][torch.arange(len(data[part]))].texts]
    assert sorted(text for text in texts if len(text) > 1) == [
        ("picture 3", "again, 3"),
        ("picture 7", "again, 7"),
    ]
    assert load_train(name)[1] is data["train"]


def test_json_lines_with_lists_and_a_split(tmp_path):
    names = write_images(tmp_path, 6)
    splits = ["train", "train", "train", "val", "test", "test"]
    lines = [
        {"file": name, "caption": [f"picture {i}", "more"] if i % 2 else f"picture {i}", "split": s}
        for i, (name, s) in enumerate(zip(names, splits, strict=True))
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    (tmp_path / "train").mkdir()  # a folder that holds no captions does not count
    data = load(f"captions:{tmp_path}")
    assert seen(data) == dict(enumerate(s.replace("val", "validation") for s in splits))
    assert data["train"][torch.tensor([1, 2])].texts == [("picture 1", "more"), ("picture 2",)]


def test_hugging_faces_folders(tmp_path):
    for part, count in (("train", 10), ("val", 2), ("test", 3)):
        names = write_images(tmp_path / part, count)
        lines = [{"file_name": n, "text": f"picture {i}"} for i, n in enumerate(names)]
        (tmp_path / part / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = load(f"captions:{tmp_path}")
    assert [len(data[part]) for part in PARTS] == [10, 2, 3]


def test_without_test_the_validation_folder_is_the_test_split(tmp_path):
    for part, count in (("train", 10), ("dev", 3)):
        names = write_images(tmp_path / part, count)
        lines = [f"{name},picture {i}" for i, name in enumerate(names)]
        (tmp_path / part / "captions.csv").write_text("\n".join(["file,caption", *lines]))
    assert [len(load(f"captions:{tmp_path}")[part]) for part in PARTS] == [9, 1, 3]


def test_tar_files_are_read_where_they_lie(tmp_path):
    for shard in range(2):
        members = {"README": b"nothing to see"}
        for i in range(10 * shard, 10 * shard + 10):
            members[f"a.b/{i:03d}.png"] = encoded(i)
            members[f"a.b/{i:03d}.cls"] = b"3"
            if i % 2:
                members[f"a.b/{i:03d}.txt"] = f" picture {i}\n".encode()
                members[f"a.b/{i:03d}.json"] = b'{"caption": "not this"}'
            else:
                key = "caption" if i % 4 else "text"
                value = json.dumps({key: [f"picture {i}", "more"], "width": 5})
                members[f"a.b/{i:03d}.json"] = value.encode()
        write_tar(tmp_path / f"shard-{shard}.tar", members)
    data = load(f"captions:{tmp_path}")
    assert [len(data[part]) for part in PARTS] == [14, 2, 4]
    assert seen(data).keys() == set(range(20))
    split = data["train"]
    batch = split[torch.arange(14)]
    assert {len(captions) for captions in batch.texts} == {1, 2}
    again = pickle.loads(pickle.dumps(split))[torch.arange(14)]
    assert all(torch.equal(a, b) for a, b in zip(batch.images, again.images, strict=True))


def test_tar_files_below_train_and_test(tmp_path):
    for part, count in (("train", 10), ("validation", 2), ("test", 3)):
        members = {}
        for i in range(count):
            members |= {f"{i}.png": encoded(i), f"{i}.txt": f"picture {i}".encode()}
        write_tar(tmp_path / part / "0.tar", members)
    data = load(f"captions:{tmp_path}")
    assert [len(data[part]) for part in PARTS] == [10, 2, 3]


def test_the_hash_tells_the_content_of_tar_files_but_not_the_place(tmp_path):
    def written(where, first=0, caption="picture"):
        members = {}
        for i in range(10):
            text = f"{caption} {i}".encode()
            members |= {f"{i}.png": encoded(i + first), f"{i}.txt": text}
        write_tar(tmp_path / where / "0.tar", members)
        return load(f"captions:{tmp_path / where}").hash

    assert written("a") == written("b")
    assert len({written("a"), written("c", first=1), written("d", caption="image")}) == 3


def test_a_damaged_image_in_a_tar_file_is_named(tmp_path):
    members = {"0.png": b"no image at all", "0.txt": b"broken"}
    for i in range(1, 10):
        members |= {f"{i}.png": encoded(i), f"{i}.txt": b"whole"}
    write_tar(tmp_path / "0.tar", members)
    data = load(f"captions:{tmp_path}")
    with pytest.raises(UserError, match=r"0\.tar: 0\.png cannot be read"):
        [data[part][torch.arange(len(data[part]))] for part in PARTS]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"expected one of captions\.csv, captions\.jsonl, .*; found none of them"),
        ({"captions.csv": "file,caption\n"}, "expected examples, found none"),
        ({"captions.csv": ""}, "expected examples, found none"),
        ({"captions.csv": "file,caption\nx.png,a\n"}, "line 2: there is no image 'x.png' in "),
        ({"captions.csv": "file,caption\n00.png, \n"}, "line 2: expected a caption, found ' '"),
        (
            {"captions.csv": "file,capton\n00.png,a\n"},
            "unknown column 'capton'; did you mean 'capt",
        ),
        ({"captions.csv": "file,split\n00.png,test\n"}, "no column 'caption', only file, split"),
        ({"captions.csv": "file,caption\n00.png\n"}, "line 2: 2 columns expected"),
        ({"captions.csv": "file,caption\n00.png,a,b\n"}, "line 2: 2 columns expected"),
        (
            {"captions.csv": "file,caption,split\n00.png,a,tests\n"},
            "line 2: unknown split 'tests'; did you mean 'test'",
        ),
        (
            {"captions.csv": "file,caption,split\n00.png,a,train\n00.png,a,test\n"},
            r"line 3: 00\.png is in train and in test",
        ),
        ({"captions.csv": "file,caption\n00.png,a\n"}, "1 examples are too few"),
        ({"captions.csv": b"file,caption\n00.png,caf\xe9\n"}, "line 2: byte 0xe9 is not UTF-8"),
        ({"captions.jsonl": '{"file": "00.png"\n'}, "line 1: not JSON"),
        ({"captions.jsonl": "3\n"}, "line 1: expected an object with keys, found 3"),
        (
            {"captions.jsonl": '{"file": "00.png", "caption": []}'},
            r"expected a caption, found \[\]",
        ),
        ({"captions.jsonl": '{"file": "00.png", "caption": ["a", 3]}'}, "expected a caption"),
        ({"captions.jsonl": "", "captions.csv": ""}, r"found captions\.csv, captions\.jsonl"),
        ({"val/captions.csv": "file,caption\n../00.png,a\n"}, "there is no train split, only val"),
    ],
)
def test_an_unfit_folder_is_an_error(tmp_path, files, message):
    write_images(tmp_path, 2)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as error:
        load(f"captions:{tmp_path}")
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"0.txt": b"a"}, r"found no image in 0\.tar"),
        ({"0.png": b""}, r"0\.png has no caption; expected one in 0\.txt, or as 'caption'"),
        ({"0.png": b"", "0.txt": b" "}, "has no caption"),
        ({"0.png": b"", "0.json": b'{"url": "x"}'}, "has no caption"),
        ({"0.png": b"", "0.json": b"[1]"}, "has no caption"),
        ({"0.png": b"", "0.json": b"{"}, r"0\.tar: 0\.json: Expecting"),
        ({"0.png": b"", "0.txt": b"\xff"}, r"0\.tar: 0\.txt: 'utf-8' codec"),
    ],
)
def test_an_unfit_tar_file_is_an_error(tmp_path, members, message):
    write_tar(tmp_path / "0.tar", members)
    with pytest.raises(UserError, match=message):
        load(f"captions:{tmp_path}")


def test_a_compressed_tar_file_is_an_error(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("0.txt"))
    with pytest.raises(UserError, match=r"0\.tar is not an uncompressed tar file"):
        load(f"captions:{tmp_path}")
    with pytest.raises(UserError, match="is not a folder"):
        load(f"captions:{tmp_path / 'nowhere'}")


def test_several_folders_of_one_split_are_an_error(tmp_path):
    for part in ("train", "val", "validation"):
        write_images(tmp_path / part, 1)
        (tmp_path / part / "captions.csv").write_text("file,caption\n00.png,a\n")
    with pytest.raises(UserError, match="several folders hold a split 'validation'"):
        load(f"captions:{tmp_path}")


def test_a_name_nearby_is_suggested():
    with pytest.raises(UserError, match=r"captions:PATH, .*folder:PATH, .*text:PATH"):
        find("caption")
