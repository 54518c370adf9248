"""Tables of the documentation that come from the code and from published records.

    python docs/generate.py

writes each of them between its two markers, `<!-- NAME -->` and `<!-- end of NAME -->`. A test
checks that the pages hold what this writes.
"""

import re
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path

from sslbench import registry
from sslbench.leaderboard.checks import grouped
from sslbench.leaderboard.differences import Measured, difference, measured
from sslbench.records import Record, read_records
from sslbench.statistics import Difference
from sslbench.storage import write_text

ROOT = Path(__file__).parent.parent
Names = tuple[str, str, str | None]  # task, dataset and metric, None for the headline


def published(board: str) -> list[Record]:
    """The records of a leaderboard."""
    return read_records(ROOT / "leaderboards" / board / "records.jsonl")


def number(value: float, sign: bool = False) -> str:
    """Three digits, without the zero before the point; a real minus."""
    text = f"{value:+.3f}" if sign else f"{value:.3f}"
    return re.sub(r"^([+-]?)0\.", r"\1.", text).replace("-", "−")


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def columns(records: list[Record]) -> dict[tuple[str, str], list[Record]]:
    """Records by task and dataset, where any is ok."""
    by_column = grouped(records, attrgetter("task", "dataset"))
    ok = {key: own for key, own in by_column.items() if any(r.status == "ok" for r in own)}
    return dict(sorted(ok.items()))


def of_row(records: list[Record], name: str, metric: str | None = None) -> Measured | None:
    """What the row with this name scored."""
    return measured([r for r in records if r.checkpoint.name == name], metric)


def reference(records: list[Record], name: str) -> str | None:
    """The untrained row of the same encoder, if there is one and it is another row."""
    encoders = {r.checkpoint.name: r.checkpoint.encoder for r in records}
    for other in sorted(encoders):
        own = {r.checkpoint.method for r in records if r.checkpoint.name == other}
        if other != name and own == {"untrained"} and encoders[other] == encoders[name]:
            return other
    return None


def gain(records: list[Record], name: str, metric: str | None = None) -> str:
    """The score, and by how much it is above `untrained` of the same encoder, with interval."""
    own = of_row(records, name, metric)
    if own is None:
        return "–"
    other = reference(records, name)
    base = of_row(records, other, metric) if other else None
    apart = difference(own, base) if base else None
    if apart is None:
        return number(own.value)
    rises = next(r.higher_is_better for r in records if r.status == "ok")
    better = apart.high < 0 if rises is False else apart.low > 0
    return f"{number(own.value)}<br>{interval(apart, better)}"


def scores(board: str, names: list[str], wanted: list[Names] | None = None) -> str:
    """Rows of methods, columns of tasks: scores, and gains over the same encoder untrained.

    Args:
        board: a leaderboard.
        names: its rows.
        wanted: its columns; None for all of them.
    """
    by_column = columns(published(board))
    head, cells = ["method"], [[name] for name in names]
    for task, dataset, metric in wanted or [(*key, None) for key in by_column]:
        records = by_column[task, dataset]
        done = next(record for record in records if record.status == "ok")
        chance = "" if done.chance is None else f"<br>chance {number(done.chance)}"
        head.append(f"{task}<br>{dataset}<br>{metric or done.headline}{chance}")
        for row, name in zip(cells, names, strict=True):
            row.append(gain(records, name, metric))
    return table(head, cells)


def apart(board: str, pairs: list[tuple[str, str]], wanted: list[Names]) -> str:
    """Rows of tasks, columns of differences between two methods."""
    by_column = columns(published(board))
    rows = []
    for task, dataset, metric in wanted:
        cells = [f"{task}, {dataset}"]
        for first, second in pairs:
            a, b = (of_row(by_column[task, dataset], name, metric) for name in (first, second))
            found = difference(a, b) if a and b else None
            cells.append(interval(found, found.low > 0 or found.high < 0) if found else "–")
        rows.append(cells)
    return table(["task", *(f"{first} − {second}" for first, second in pairs)], rows)


def interval(found: Difference, real: bool) -> str:
    """A difference with its 95 % interval, bold if it is a real one."""
    text = f"{number(found.value, True)} [{number(found.low)}, {number(found.high)}]"
    return f"**{text}**" if real else text


def methods() -> str:
    """One row per method of images, from its file."""
    rows = []
    for name, entry in registry.entries("methods").items():
        about = entry.describe()
        if about["modality"] in ("image", "any"):
            link = f"[{name}](../methods/{about['family']}/{name}.py)"
            idea = about["summary"].partition(": ")[2].removesuffix(".")
            settings = registry.settings(registry.method(name), {})
            plain = [f"{key}={value}" for key, value in settings.items() if shown(value)]
            words = [about.get("paper", "–"), about["pseudo_label"], ", ".join(plain) or "–"]
            rows.append([f"{about['family']}/{link}", idea, *words])
    rows.sort(key=lambda row: row[0])
    return table(["method", "idea", "paper", "pseudo-label", "settings"], rows)


def shown(value: object) -> bool:
    """Whether a setting fits into a table: numbers and words, no augmentations."""
    return isinstance(value, bool | int | float | str) or value is None


SMALL = ["supervised", "simclr", "mae", "vicreg", "inpainting", "moco", "rotation", "byol"]

LANGUAGE = ["untrained", "mlm", "electra", "simcse", "untrained-gpt2", "lm"]
LANGUAGE += ["untrained-embeddings", "word2vec", "minilm"]


def pages() -> Iterator[tuple[Path, str, Callable[[], str]]]:
    """Page, name of the table, and what writes it."""
    docs = ROOT / "docs"
    yield docs / "methods.md", "methods", methods
    rows = [*SMALL, "deepcluster", "untrained", "untrained-vit", "pixels"]
    own: list[Names] = [(task, "cifar10-mini", None) for task in ("knn", "linear_probe")]
    yield docs / "methods.md", "vision-small", lambda: scores("vision-small", rows, own)
    yield docs / "text.md", "language", lambda: scores("language", LANGUAGE)
    emoji: list[Names] = [("image_text_retrieval", "emoji", None)]
    for dataset in ("emoji", "emoji-subcategories"):
        emoji += [(task, dataset, None) for task in ("zero_shot", "knn", "linear_probe")]
    board, both = "image-text", ["untrained", "clip", "siglip"]
    yield docs / "image-text.md", board, lambda: scores(board, both, emoji)
    pairs = [("clip", "siglip")]
    yield docs / "image-text.md", "clip and siglip", lambda: apart(board, pairs, emoji)


def written(page: str, name: str, content: str) -> str:
    """The page with the table between its markers.

    Raises:
        ValueError: it has no such markers.
    """
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if start not in page or end not in page:
        raise ValueError(f"markers of {name!r} expected")
    before, rest = page.split(start)
    return f"{before}{start}\n{content}\n{end}{rest.split(end)[1]}"


if __name__ == "__main__":
    for path, name, content in pages():
        write_text(path, written(path.read_text(), name, content()))
