"""Images with captions of one's own: a folder with a table of captions, or with tar files.

The table is `captions.csv` (columns `file` and `caption`; an image may have several lines),
`captions.jsonl` (the same keys; a caption may be a list of them) or, as Hugging Face has it,
`metadata.jsonl` (keys `file_name` and `text`). Files are named relative to it. Tar files are
webdataset's, uncompressed: KEY.jpg beside KEY.txt, or beside KEY.json with a `caption` or a `text`
in it; other members are left alone.

The table may have a column `split`. Without table or tar files at the top, there are folders train,
validation (or val, dev) and test with their own. What is not given is dealt from train, see
parts.py.
"""

import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sslbench.data.captions import CaptionedImages, Member, TarImages
from sslbench.data.files import ImageFiles
from sslbench.data.parts import complete
from sslbench.data.sources.image_folder import _IMAGES
from sslbench.data.split import Split
from sslbench.data.table import Row
from sslbench.data.tabular import SPLITS, read_table, wrong
from sslbench.errors import UserError, suggest

_TABLES = ("captions.csv", "captions.jsonl", "metadata.jsonl")


def load(row: Row, folder: Path) -> tuple[list[str], dict[str, Split]]:
    """No classes; splits of captioned images."""
    root = row.options["path"]
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; expected one with images and captions")
    folders = [] if _inside(root) else [name for name in SPLITS if (root / name).is_dir()]
    parts: dict[str, Split] = {}
    for name in folders or ["."]:
        read = _read(root / name, SPLITS.get(name, "train"))
        if twice := parts.keys() & read.keys():
            raise UserError(f"{root}: several folders hold a split {twice.pop()!r}")
        parts |= read
    return [], complete(parts, str(root))


def _inside(root: Path) -> list[str]:
    """Names of the tables and tar files in a folder."""
    tables = [name for name in _TABLES if (root / name).is_file()]
    return tables + sorted(path.name for path in root.glob("*.tar"))


def _read(root: Path, split: str) -> dict[str, Split]:
    """What lies in a folder; `split` is that of images whose table does not say."""
    found = _inside(root)
    if len(found) == 1 and found[0] in _TABLES:
        return _from_table(root / found[0], split)
    if not found or found[0] in _TABLES:
        expected = f"expected one of {', '.join(_TABLES)}, or *.tar"
        raise UserError(f"{root}: {expected}; found {', '.join(found) or 'none of them'}")
    return {split: _from_tars(root, found)}


def _from_table(table: Path, split: str) -> dict[str, Split]:
    file, caption = ("file_name", "text") if table.name == _TABLES[2] else ("file", "caption")
    captions: dict[str, list[str]] = {}  # by file
    splits: dict[str, str] = {}
    for number, values in read_table(table, (file, caption, "split"), (file, caption)):
        name, image = values.get("split", split), str(values[file])
        if name not in SPLITS:
            raise wrong(table, number, f"unknown split {name!r}; {suggest(str(name), [*SPLITS])}")
        if splits.setdefault(image, SPLITS[name]) != SPLITS[name]:
            raise wrong(table, number, f"{image} is in {splits[image]} and in {SPLITS[name]}")
        if not (table.parent / image).is_file():
            raise wrong(table, number, f"there is no image {image!r} in {table.parent}")
        if (found := _captions(values[caption])) is None:
            raise wrong(table, number, f"expected a caption, found {values[caption]!r}")
        captions.setdefault(image, []).extend(found)
    parts: dict[str, Split] = {}
    for name in sorted(set(splits.values())):
        images = [image for image, its in splits.items() if its == name]
        files = ImageFiles(table.parent, images, None)
        parts[name] = CaptionedImages(files, [tuple(captions[image]) for image in images])
    return parts


def _captions(value: Any) -> list[str] | None:
    """A caption or several without the space around them; None for anything else."""
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, list) or not captions:
        return None
    if not all(isinstance(caption, str) and caption.strip() for caption in captions):
        return None
    return [caption.strip() for caption in captions]


def _from_tars(root: Path, shards: list[str]) -> Split:
    members: list[Member] = []
    captions: list[tuple[str, ...]] = []
    for i, shard in enumerate(shards):
        try:
            with tarfile.open(root / shard, "r:") as archive:
                for key, parts in _by_key(archive).items():
                    if (image := next((m for k, m in parts.items() if k in _IMAGES), None)) is None:
                        continue
                    if (found := _captions(_caption(archive, parts))) is None:
                        raise UserError(
                            f"{root / shard}: {image.name} has no caption; expected one in "
                            f"{key}.txt, or as 'caption' or 'text' in {key}.json"
                        )
                    members.append(Member(i, image.name, image.offset_data, image.size))
                    captions.append(tuple(found))
        except tarfile.TarError as error:
            raise UserError(f"{root / shard} is not an uncompressed tar file: {error}") from error
    if not members:
        raise UserError(f"{root}: found no image in {', '.join(shards)}")
    return CaptionedImages(TarImages(root, shards, members), captions)


def _by_key(archive: tarfile.TarFile) -> dict[str, dict[str, tarfile.TarInfo]]:
    """Members by what stands before the first dot of their names, then by what follows it."""
    found: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in archive:
        if member.isfile():
            folder, name = os.path.split(member.name)
            key, dot, kind = name.partition(".")
            found.setdefault(os.path.join(folder, key), {})[(dot + kind).lower()] = member
    return found


def _caption(archive: tarfile.TarFile, parts: Mapping[str, tarfile.TarInfo]) -> Any:
    """What KEY.txt holds, else the caption or text in KEY.json; None without either."""
    kind = next((kind for kind in (".txt", ".json") if kind in parts), None)
    if kind is None:
        return None
    file = archive.extractfile(parts[kind])
    assert file is not None  # it is a regular file
    try:
        text = file.read().decode("utf-8")
        if kind == ".txt":
            return text
        values = json.loads(text)
    except ValueError as error:
        raise UserError(f"{archive.name!s}: {parts[kind].name}: {error}") from error
    return values.get("caption", values.get("text")) if isinstance(values, dict) else None
