"""emoji: what three artists made of the same emoji, with their names and tags as captions.

The styles are Noto (Google), Fluent 3D (Microsoft) and Twemoji (Twitter). A picture is laid on
white, its transparency taken into account, and averaged down to 32 × 32 pixels. Left out are the
variants in other skin tones, which are near-duplicates; components (the skin tones themselves);
Fluent's flags of countries, which are not Microsoft's and wave like Noto's; and a picture that
equals one of an earlier emoji in the same style (Twemoji's families, flags of dependencies).

Twemoji is the test split: known emoji in a style that nobody trained on. It is the one to hold out,
for it draws every emoji, which Fluent does not, and nothing in the others looks taken from it, as
Fluent's flags do from Noto. The other two styles are train and validation. Training needs both,
since what they share is what carries over to a third; so validation is 15 % of the emoji in both
styles, chosen by carve.py within subcategories: new emoji in a known style, not the same question
as the test's. An emoji, its men and its women form one group: they are dealt together, and
intervals resample them.

The first caption is the name, then come up to three with up to three tags each. Labels are the
categories or, by the row's option, the subcategories; the splits are the same for both.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from sslbench.data.captions import CaptionedImages
from sslbench.data.carve import carve
from sslbench.data.sources.compact_text import members
from sslbench.data.split import ImageArray, Split
from sslbench.data.table import Row

_SIZE = 32  # pixels
_STYLES = (  # package and folder in it; the last style is the test split
    ("emoji-datasource-google", "img/google/64"),
    ("@lobehub/fluent-emoji-3d", "assets"),
    ("emoji-datasource-twitter", "img/twitter/64"),
)
_FLUENT = 1
_PEOPLE = {"1f468", "1f469", "1f9d1"}  # man, woman, person
_SIGNS = {"200d", "2640", "2642", "27a1"}  # joiner, man, woman, direction


def reduce(archives: Mapping[str, Path], folder: Path) -> None:
    """Write images (n, 3, 32, 32) uint8, their places (n, 2) int16, and emoji.json.

    A place is a style and the emoji's place in emoji.json.
    """
    files = dict(members(archives["emojibase-data"], r"package/(en/data|meta/groups)\.json"))
    meta = json.loads(files["package/meta/groups.json"])
    groups, subgroups = meta["groups"], meta["subgroups"]
    emoji = [
        {
            "code": _code(entry["hexcode"]),
            "name": entry["label"],
            "tags": entry["tags"],
            "category": groups[str(entry["group"])].replace("-", " "),
            "subcategory": subgroups[str(entry["subgroup"])].replace("-", " "),
        }
        for entry in json.loads(files["package/en/data.json"])
        if "group" in entry and groups[str(entry["group"])] != "component"
    ]
    images: list[np.ndarray] = []
    places: list[tuple[int, int]] = []
    for style, (package, inside) in enumerate(_STYLES):
        files = dict(members(archives[package], rf"package/{inside}/[^/]+\.(png|webp)"))
        pictures = {_code(PurePosixPath(name).stem): files[name] for name in sorted(files)}
        seen: set[bytes] = set()
        for i, entry in enumerate(emoji):
            if style == _FLUENT and entry["subcategory"] == "country flag":
                continue
            if entry["code"] in pictures:
                image = _picture(pictures[entry["code"]])
                if image.tobytes() not in seen:
                    seen.add(image.tobytes())
                    images.append(image)
                    places.append((style, i))
    np.save(folder / "images.npy", np.stack(images))
    np.save(folder / "places.npy", np.array(places, np.int16))
    (folder / "emoji.json").write_text(json.dumps(emoji, indent=0), encoding="utf-8")


def _code(name: str) -> str:
    """An emoji's code points as all sources write them, but for case, zeros and fe0f."""
    points = (point.lstrip("0") for point in name.lower().split("-"))
    return "-".join(point for point in points if point != "fe0f")


def _picture(file: bytes) -> np.ndarray:
    """(3, 32, 32) uint8 of an image file: laid on white, then averaged."""
    with Image.open(io.BytesIO(file)) as opened:
        image = opened.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    small = Image.alpha_composite(white, image).resize((_SIZE, _SIZE), Image.Resampling.BOX)
    return np.asarray(small.convert("RGB")).transpose(2, 0, 1)


def load(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """Images with captions; the row's option "labels" is "category" or "subcategory"."""
    images, places = np.load(folder / "images.npy"), np.load(folder / "places.npy")
    emoji = json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
    style, which = places.astype(np.int64).T
    captions = [_captions(entry) for entry in emoji]
    groups = _numbers([_family(entry["code"]) for entry in emoji])[1][which]
    names, labels = _numbers([entry[row.options["labels"]] for entry in emoji])
    strata = _numbers([entry["subcategory"] for entry in emoji])[1][which]
    known = np.flatnonzero(style < len(_STYLES) - 1)
    dealt = carve(strata[known], {"validation": 0.15}, groups[known])
    parts = {name: known[index] for name, index in dealt.items()}
    parts["test"] = np.flatnonzero(style == len(_STYLES) - 1)
    return names, {
        name: CaptionedImages(
            ImageArray(images[index], labels[which[index]], groups[index]),
            [captions[i] for i in which[index]],
        )
        for name, index in parts.items()
    }


def _captions(entry: Mapping[str, Any]) -> tuple[str, ...]:
    tags = entry["tags"][:9]
    return (entry["name"], *(", ".join(tags[i : i + 3]) for i in range(0, len(tags), 3)))


def _family(code: str) -> str:
    """One for an emoji, its men and its women."""
    points = ["1f9d1" if p in _PEOPLE else p for p in code.split("-") if p not in _SIGNS]
    return "-".join(points) or code


def _numbers(values: list[str]) -> tuple[list[str], np.ndarray]:
    """What there is, in the order in which it comes first, and (n,) int64 which each is."""
    number = {value: i for i, value in enumerate(dict.fromkeys(values))}
    return [*number], np.array([number[value] for value in values], np.int64)
