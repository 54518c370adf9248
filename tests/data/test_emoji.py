import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from sslbench.data import load
from sslbench.data.builtin_image_text import IMAGE_TEXT
from sslbench.data.fetch import problem
from sslbench.data.loading import chance_level
from sslbench.data.sources import emoji
from sslbench.data.table import find

PARTS = ("train", "validation", "test")
NAMES = [row.name for row in IMAGE_TEXT]
NOTO, FLUENT, TWEMOJI = range(3)
FOLDERS = {
    "emoji-datasource-google": "img/google/64",
    "@lobehub/fluent-emoji-3d": "assets",
    "emoji-datasource-twitter": "img/twitter/64",
}


def cached(name):
    """The dataset if it was fetched; else the test is skipped."""
    if (found := problem(find(name))) is not None:
        pytest.skip(f"{name} {found}: sslbench fetch {name}")
    return load(name)


@pytest.mark.parametrize("row", IMAGE_TEXT, ids=NAMES)
def test_rows_are_complete(row):
    assert find(row.name) is row
    assert row.targets == ("label", "captions")
    assert 1 / row.classes <= row.chance < 1
    for archive in row.archives:
        assert archive.client == "npm"
        assert archive.version in archive.filename
        assert len(archive.sha256) == 64
    assert {a.package for a in row.archives} == {*FOLDERS, "emojibase-data"}


@pytest.mark.parametrize("name", NAMES)
def test_splits_are_those_of_the_table(name):
    data, row = cached(name), find(name)
    assert {part: len(data[part]) for part in PARTS} == row.splits
    assert data.hash == row.hash
    assert data.chance == row.chance == chance_level("top1", data["test"].labels, data.classes)
    for part in PARTS[::2]:  # some subcategories have no more than two emoji
        assert set(data[part].labels) == set(range(data.classes))


def test_both_labellings_have_the_same_images_and_captions():
    first, second = map(cached, NAMES)
    for part in PARTS:
        assert torch.equal(first[part].images.images, second[part].images.images)
        assert first[part].captions == second[part].captions
        pairs = set(zip(first[part].labels, second[part].labels, strict=True))
        assert len({fine for _, fine in pairs}) == len(pairs)  # each lies in one category


def test_what_is_held_out_was_not_trained_on():
    data = cached("emoji")
    images = [{image.numpy().tobytes() for image in data[part].images.images} for part in PARTS]
    assert len(set.union(*images)) == sum(len(data[part]) for part in PARTS)
    train, validation = (set(data[part].groups) for part in PARTS[:2])
    assert not train & validation
    examples = zip(data["test"].captions, data["test"].groups, strict=True)
    unseen = [captions[0] for captions, group in examples if group not in train | validation]
    assert unseen == ["flag: Norway", "flag: Saudi Arabia"]  # in Noto the same as earlier ones
    names = [{captions[0] for captions in data[part].captions} for part in PARTS]
    assert not names[0] & names[1]
    assert len(names[2]) == len(data["test"])
    assert not any("skin tone" in name for part in names for name in part)


def test_batches_hold_images_captions_and_labels():
    data = cached("emoji")
    split = data["test"]
    where = next(i for i, captions in enumerate(split.captions) if captions[0] == "red heart")
    batch = split[torch.tensor([where])]
    assert batch.texts == [("red heart", "emotion, heart, love", "red")]
    assert data.class_names[batch.target] == "smileys emotion"
    colour = batch.images[0, :, 16, 16].tolist()
    assert batch.images.shape == (1, 3, 32, 32)
    assert batch.images.dtype == torch.uint8
    assert colour[0] > 180 > 80 > max(colour[1:])
    assert batch.images[0, :, 0, 0].tolist() == [255, 255, 255]


# the reducer, on small archives


def drawn(seed, size=64):
    """An RGBA picture with every degree of transparency."""
    return np.random.default_rng(seed).integers(0, 256, (size, size, 4))


def file_of(pixels, kind="png", mode="RGBA"):
    file = io.BytesIO()
    image = Image.fromarray(pixels.astype(np.uint8)).convert(mode)
    image.save(file, kind, **({"lossless": True, "exact": True} if kind == "webp" else {}))
    return file.getvalue()


def on_white(pixels):
    """(3, 32, 32): alpha blending and the mean of every patch, written out."""
    step = len(pixels) // 32
    out = np.zeros((3, 32, 32))
    for y in range(32):
        for x in range(32):
            patch = pixels[y * step : y * step + step, x * step : x * step + step].reshape(-1, 4)
            for *colour, alpha in patch.astype(float):
                for c in range(3):
                    blended = alpha / 255 * colour[c] + (1 - alpha / 255) * 255
                    out[c, y, x] += blended / step**2
    return out


def write_archive(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def entry(code, name, group, subgroup, tags=()):
    return {
        "hexcode": code,
        "label": name,
        "tags": list(tags),
        "group": group,
        "subgroup": subgroup,
        "skins": [{"hexcode": f"{code}-1F3FB", "label": f"{name}: light skin tone"}],
    }


GROUPS = {"0": "smileys-emotion", "2": "component", "9": "flags"}
SUBGROUPS = {"0": "face-smiling", "32": "skin-tone", "97": "flag", "98": "country-flag"}
ENTRIES = [
    {"hexcode": "1F1E6", "label": "regional indicator A"},
    entry("1F600", "grinning face", 0, 0, [f"tag {i}" for i in range(11)]),
    entry("0023-FE0F-20E3", "keycap: #", 0, 0, ["key"]),
    entry("1F604", "the same face", 0, 0, ["same"]),
    entry("1F3FB", "light skin tone", 2, 32, ["tone"]),
    entry("1F3C1", "chequered flag", 9, 97, ["race"]),
    entry("1F1E6-1F1E9", "flag: Andorra", 9, 98, ["AD"]),
]


def write_archives(folder):
    """Noto has all, Fluent all in WebP at 128 px, Twemoji no keycap and one drawing twice."""
    codes = ["1f600", "0023-fe0f-20e3", "1f604", "1f3fb", "1f3c1", "1f1e6-1f1e9", "1f600-1f3fb"]
    archives = {}
    for style, (package, inside) in enumerate(FOLDERS.items()):
        files = {"README.md": b"", f"{inside}/sheets/1f600.png": b"", "other/1f600.png": b""}
        for i, code in enumerate(codes):
            if style == FLUENT:
                files[f"{inside}/{code}.webp"] = file_of(drawn(10 + i, 128), "webp")
            elif style == NOTO or code != "0023-fe0f-20e3":
                drawing = 1 if style == TWEMOJI and code == "1f604" else i
                files[f"{inside}/{code}.png"] = file_of(drawn(20 * style + drawing))
        if style == TWEMOJI:
            files[f"{inside}/1f600.png"] = files[f"{inside}/1f604.png"]
        archives[package] = write_archive(folder / f"{style}.tgz", files)
    tables = {
        "en/data.json": ENTRIES,
        "meta/groups.json": {"groups": GROUPS, "subgroups": SUBGROUPS},
    }
    contents = {name: json.dumps(table).encode() for name, table in tables.items()}
    contents["de/data.json"] = b"[]"
    archives["emojibase-data"] = write_archive(folder / "names.tgz", contents)
    return archives


def test_what_is_kept_and_how_it_is_reduced(tmp_path):
    emoji.reduce(write_archives(tmp_path), tmp_path)
    images, places = np.load(tmp_path / "images.npy"), np.load(tmp_path / "places.npy")
    kept = json.loads((tmp_path / "emoji.json").read_text())
    names = ["grinning face", "keycap: #", "the same face", "chequered flag", "flag: Andorra"]
    assert [e["name"] for e in kept] == names
    assert [e["code"] for e in kept] == ["1f600", "23-20e3", "1f604", "1f3c1", "1f1e6-1f1e9"]
    assert {(e["category"], e["subcategory"]) for e in kept} == {
        ("smileys emotion", "face smiling"),
        ("flags", "flag"),
        ("flags", "country flag"),
    }
    assert places.tolist() == [
        *([NOTO, i] for i in range(5)),
        *([FLUENT, i] for i in range(4)),  # no flag of a country
        *([TWEMOJI, i] for i in (0, 3, 4)),  # no keycap, and the second face is the first
    ]
    assert images.shape == (12, 3, 32, 32)
    assert images.dtype == np.uint8
    for image, (style, i) in zip(images, places.tolist(), strict=True):
        drawing = (0, 1, 2, 4, 5)[i]
        if style == FLUENT:
            pixels = drawn(10 + drawing, 128)
        else:
            pixels = drawn(20 * style + (1 if style == TWEMOJI and i == 0 else drawing))
        assert np.abs(image - on_white(pixels)).max() <= 1.5  # rounded twice


@pytest.mark.parametrize("name", NAMES)
def test_splits_of_a_small_set(tmp_path, name):
    kinds = [("food", "fruit"), ("food", "drink"), ("flags", "flag")]
    kept = []
    for i in range(60):  # of every emoji a man, in the same family
        for person in ("1f9d1", "1f468"):
            category, subcategory = kinds[i % 3]
            names = {"category": category, "subcategory": subcategory}
            entry = {"code": f"{person}-200d-{i}", "name": f"{person} {i}", "tags": [], **names}
            kept.append(entry)
    places = [(style, i) for style in range(3) for i in range(len(kept))][5:]
    images = np.random.default_rng(0).integers(0, 256, (len(places), 3, 32, 32), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "places.npy", np.array(places, np.int16))
    (tmp_path / "emoji.json").write_text(json.dumps(kept))
    row = find(name)
    classes, parts = emoji.load(row, tmp_path)
    assert classes == (["food", "flags"] if name == "emoji" else ["fruit", "drink", "flag"])
    known = {image.tobytes(): place for image, place in zip(images, places, strict=True)}
    found = {}
    for part, split in parts.items():
        batch = split[torch.arange(len(split))]
        found[part] = [known[image.numpy().tobytes()] for image in batch.images]
        for (_, i), text, label in zip(found[part], batch.texts, batch.target, strict=True):
            assert text == (kept[i]["name"],)
            assert classes[label] == kept[i][row.options["labels"]]
        families = np.array([i // 2 for _, i in found[part]])
        same = families[:, None] == families
        assert ((split.groups[:, None] == split.groups) == same).all()
    assert {style for style, _ in found["test"]} == {TWEMOJI}
    assert len(found["test"]) == 120
    assert {style for style, _ in found["validation"]} == {NOTO, FLUENT}
    train, validation = ({i // 2 for _, i in found[part]} for part in PARTS[:2])
    assert not train & validation
    assert train | validation == set(range(60))
    assert np.bincount([i % 3 for i in validation]).tolist() == [3, 3, 3]
    assert len(found["train"]) + len(found["validation"]) == 235


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB"])
def test_every_mode_of_picture(mode):
    pixels = drawn(0)
    with Image.open(io.BytesIO(file_of(pixels, mode=mode))) as image:
        expected = on_white(np.asarray(image.convert("RGBA")))
    assert np.abs(emoji._picture(file_of(pixels, mode=mode)) - expected).max() <= 1.5


def test_transparent_pixels_of_a_palette_are_white():
    image = Image.new("P", (64, 64), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.paste(0, (0, 0, 32, 64))
    file = io.BytesIO()
    image.save(file, "png", transparency=0)
    small = emoji._picture(file.getvalue())
    assert small[:, 5, 15].tolist() == [255, 255, 255]
    assert small[:, 5, 16].tolist() == [255, 0, 0]


def test_captions_are_the_name_and_groups_of_tags():
    kept = {"name": "grinning face", "tags": [f"tag {i}" for i in range(11)]}
    assert emoji._captions(kept) == (
        "grinning face",
        "tag 0, tag 1, tag 2",
        "tag 3, tag 4, tag 5",
        "tag 6, tag 7, tag 8",
    )
    assert emoji._captions({"name": "x", "tags": ["a", "b", "c", "d"]}) == ("x", "a, b, c", "d")
    assert emoji._captions({"name": "x", "tags": []}) == ("x",)


@pytest.mark.parametrize(
    ("codes", "same"),
    [
        (["1f9d1-200d-1f692", "1f468-200d-1f692", "1f469-200d-1f692"], True),  # firefighters
        (["1f3c3", "1f3c3-200d-2640", "1f3c3-200d-2642-200d-27a1", "1f3c3-200d-27a1"], True),
        (["1f468", "1f469", "1f9d1"], True),
        (["1f692", "1f9d1-200d-1f692"], False),  # fire engine
        (["2640", "2642", "27a1"], False),
        (["1f466", "1f468-200d-1f466"], False),
    ],
)
def test_men_and_women_are_of_one_family(codes, same):
    families = {emoji._family(code) for code in codes}
    assert len(families) == (1 if same else len(codes))
