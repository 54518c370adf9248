"""What the documentation says of the code and of published records.

    python docs/generate.py

writes tables into the pages, each between its two markers, `<!-- NAME -->` and `<!-- end of NAME
-->`, and what was measured into the docstrings of methods, where a paragraph begins with
"Measured: leaderboards/vision-methods". A test checks that pages and docstrings hold what this
writes.
"""

import json
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sslbench import registry
from sslbench.bench.report import cells
from sslbench.bench.timing import Goal, Timing
from sslbench.data.split import ImageArray
from sslbench.encoder import ImageEncoder, build
from sslbench.leaderboard.board import build as built
from sslbench.leaderboard.checks import grouped
from sslbench.leaderboard.differences import Measured, difference, measured
from sslbench.leaderboard.figures import heat_maps, transfers
from sslbench.leaderboard.text import MARKS
from sslbench.random import Random
from sslbench.records import Checkpoint, Record, Score, read_records
from sslbench.statistics import Difference
from sslbench.storage import write_text

ROOT = Path(__file__).parent.parent
Names = tuple[str, str, str | None]  # task, dataset and metric, None for the headline

VISION, TASKS = "vision-methods", "vision-tasks"
MEASURED = f"Measured: leaderboards/{VISION}"
KNN: Names = ("knn", "cifar10-mini", None)
LINEAR: Names = ("linear_probe", "cifar10-mini", None)
BEST_LAYER: Names = ("linear_probe", "cifar10-mini", "top1_best_layer")


@cache
def published(board: str) -> list[Record]:
    """The records of a leaderboard."""
    return read_records(ROOT / "leaderboards" / board / "records.jsonl")


def column(board: str, wanted: Names) -> list[Record]:
    """The records of a leaderboard's column."""
    return [r for r in published(board) if (r.task, r.dataset) == wanted[:2]]


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
    found = less(records, name, reference(records, name), metric)
    return f"{number(own.value)}<br>{found}" if found else number(own.value)


def less(
    records: list[Record], name: str, other: str | None, metric: str | None = None
) -> str | None:
    """By how much a row is above another, with interval, bold if it is better; None: unknown."""
    found = above(records, name, other, metric)
    return interval(*found) if found else None


def above(
    records: list[Record], name: str, other: str | None, metric: str | None = None
) -> tuple[Difference, bool] | None:
    """A row less another, and whether it is better by the 95 % interval; None: unknown."""
    own, base = of_row(records, name, metric), of_row(records, other or "", metric)
    apart = difference(own, base) if own and base else None
    if apart is None:
        return None
    rises = next(r.higher_is_better for r in records if r.status == "ok")
    return apart, apart.high < 0 if rises is False else apart.low > 0


def scores(
    board: str,
    names: list[str],
    wanted: list[Names] | None = None,
    against: tuple[str, Names] | None = None,
) -> str:
    """Rows of methods, columns of tasks: scores, and gains over the same encoder untrained.

    Args:
        board: a leaderboard.
        names: its rows.
        wanted: its columns; None for all of them.
        against: a row and a column in which all others are compared with it, in a last column.
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
    if against is not None:
        other, (task, dataset, metric) = against
        head.append(f"{task}<br>{dataset}<br>less {other}")
        for row, name in zip(cells, names, strict=True):
            found = less(by_column[task, dataset], name, other, metric) if name != other else None
            row.append(found or "–")
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


def compute(board: str, names: list[str]) -> str:
    """What the pretraining runs of rows cost: updates, views, seconds."""
    rows, made = [], [record.checkpoint for record in published(board)]
    for name in names:
        runs = {c.key: c for c in made if c.name == name}
        first = next(iter(runs.values()))
        if first.pretrain_step:
            seconds = sum(run.pretrain_seconds or 0.0 for run in runs.values()) / len(runs)
            batch = first.recipe["batch_size"]
            words = [batch, first.pretrain_epochs, first.pretrain_step, views(first)]
            rows.append([name, first.encoder_config["name"], *map(str, words), f"{seconds:.0f}"])
    head = ["method", "encoder", "batch", "epochs", "updates", "views of an image", "seconds"]
    return table(head, rows)


def views(made: Checkpoint) -> int:
    """How often an image, or a patch of it, enters the trained encoder in one update.

    The first convolution is asked; what has none reads each image once.
    """
    config, batch = made.encoder_config, 256  # as W-MSE wants for its sub-batches
    config = config.get("first", config)  # a pair is made of one
    size = config["image_size"]
    pixels = np.random.default_rng(0).integers(0, 256, (256, 3, size, size), dtype=np.uint8)
    data = ImageArray(pixels, np.arange(256) % 10)
    cls = registry.method(made.method or "")
    method = cls(build(config, data), data, **registry.settings(cls, made.settings))
    method.train().before_epoch(0)
    seen: list[int] = []
    encoders = [m for m in method.modules() if isinstance(m, ImageEncoder)]
    for encoder in encoders:
        first = next((m for m in encoder.modules() if isinstance(m, nn.Conv2d)), None)
        if first is not None and first.weight.requires_grad:
            first.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    index = torch.arange(batch)
    random = Random(0, 0, index, batch)
    method.loss(method.views(data[index], random), 0.0)
    return sum(seen) // batch or 1


def composition(board: str, wanted: Names) -> str:
    """What each pair of parts scored; the parts alone are on the diagonal."""
    (found,) = heat_maps(built(column(board, wanted), board))
    rows = [
        [first, *("–" if entry is None else number(entry.value) for entry in entries)]
        for first, entries in found.lines
    ]
    return table(["", *found.head], rows)


def adaptations(board: str) -> str:
    """What each adaptation of each row reached, for each dataset and amount of labels."""
    parts = []
    for found in transfers(built(published(board), board)):
        lines = [
            [name, *("–" if e is None else f"{MARKS[e.mark]} {e.score} {e.half}" for e in entries)]
            for name, entries in found.lines
        ]
        parts.append(f"{found.caption}:\n\n{table(['', *found.head], lines)}")
    return "\n\n".join(parts)


def over_trials(board: str, wanted: list[tuple[str, str, str]]) -> str:
    """Scores with the intervals over examples and over trials, and the gain over `untrained`.

    Args:
        board: a leaderboard.
        wanted: its columns: task, dataset and the score over trials.
    """
    by_column, names = columns(published(board)), rows(board)
    head, cells = ["", *(f"{task}<br>{dataset}" for task, dataset, _ in wanted)], []
    for name in names:
        line = [name]
        for task, dataset, metric in wanted:
            done = [r for r in by_column[task, dataset] if r.checkpoint.name == name]
            found = next((r for r in done if r.status == "ok"), None)
            if found is None:
                line.append("–")
                continue
            own, trials = found.scores[found.headline], found.scores[metric]
            line.append(
                f"{gain(by_column[task, dataset], name)}<br>examples {ends(own)}<br>"
                f"{trials.n} trials {ends(trials)}"
            )
        cells.append(line)
    return table(head, cells)


def ends(score: Score) -> str:
    """The 95 % interval of a score."""
    if score.low is None or score.high is None:
        return "–"
    return f"[{number(score.low)}, {number(score.high)}]"


def rows(board: str) -> list[str]:
    """The rows of a leaderboard: methods by family, then what they start from."""
    entries = registry.entries("methods")
    made = {r.checkpoint.name: r.checkpoint for r in published(board)}
    trained = [name for name in entries if name in made and made[name].pretrain_step]
    trained.sort(key=lambda name: (made[name].family, name))
    return trained + sorted(made.keys() - trained)


def of_images() -> dict[str, dict[str, Any]]:
    """What the files say of the methods of images, by name."""
    found = {name: entry.describe() for name, entry in registry.entries("methods").items()}
    return {name: about for name, about in found.items() if about["modality"] in ("image", "any")}


def methods() -> str:
    """One row per method of images, from its file, with what the linear probe measured."""
    board, lines = column(VISION, LINEAR), []
    for name, about in of_images().items():
        link = f"[{name}](../methods/{about['family']}/{name}.py)"
        idea = about["summary"].partition(": ")[2].removesuffix(".")
        settings = registry.settings(registry.method(name), {})
        plain = [f"{key}={value}" for key, value in settings.items() if shown(value)]
        words = [about.get("paper", "–"), about["pseudo_label"], ", ".join(plain) or "–"]
        lines.append([f"{about['family']}/{link}", idea, *words, gain(board, name)])
    lines.sort(key=lambda line: line[0])
    return table(["method", "idea", "paper", "pseudo-label", "settings", "measured"], lines)


def tasks() -> str:
    """One row per protocol, from its file."""
    lines = []
    for name, entry in registry.entries("tasks").items():
        about = entry.describe()
        settings = registry.plain(registry.settings(registry.task(name), {}))
        texts = {key: json.dumps(value, ensure_ascii=False) for key, value in settings.items()}
        plain = [f"{key}={text if len(text) < 40 else '…'}" for key, text in texts.items()]
        lines.append(
            [
                f"[{name}](../tasks/{name}.py)",
                about["summary"].partition(": ")[2].removesuffix("."),
                f"`{about['metric']}`",
                str(about["version"]),
                about["paper"],
                about["modality"].replace("_", "–"),
                about["target"] or "–",
                ", ".join(plain) or "–",
            ]
        )
    head = ["task", "what", "headline", "version", "paper", "encoders of", "targets", "settings"]
    return table(head, lines)


def verdicts(board: str) -> str:
    """Which methods of a board learn: whose interval over the same encoder untrained is above 0."""
    knn, linear = column(board, KNN), column(board, LINEAR)
    lines: dict[str, list[str]] = {
        "above it in kNN and in the linear probe": [],
        "above it in one of the two": [],
        "above it in neither": [],
        "above it in the linear probe where each takes its best layer": [],
        "above raw pixels in the linear probe": [],
    }
    both, one, neither, deep, pixels = lines.values()
    for name in rows(board):
        base = reference(knn, name)
        pairs = [(knn, base, None), (linear, base, None), (linear, base, BEST_LAYER[2])]
        found = [above(records, name, other, metric) for records, other, metric in pairs]
        if base is None or not all(found):
            continue
        real = [better for _, better in filter(None, found)]
        (neither, one, both)[sum(real[:2])].append(name)
        if real[2]:
            deep.append(name)
        if (over := above(linear, name, "pixels")) is not None and over[1]:
            pixels.append(name)
    if waiting := [name for name in of_images() if name not in rows(board)]:
        lines["not run yet"] = waiting
    return "\n".join(f"- {words}: {', '.join(names) or 'none'}" for words, names in lines.items())


def in_words(name: str) -> str:
    """What a method's docstring says of its row on the board of all methods."""
    knn, linear = column(VISION, KNN), column(VISION, LINEAR)
    own = [r for r in knn if r.checkpoint.name == name and r.status == "ok"]
    first, base = own[0], reference(knn, name)
    parts = [
        f"{words} {less(records, name, base, metric)} to {number(found.value)}"
        for words, records, metric in (
            ("kNN", knn, None),
            ("linear", linear, None),
            ("at the best layer", linear, BEST_LAYER[2]),
        )
        if (found := of_row(records, name, metric)) is not None
    ]
    text = (
        f"{MEASURED} (cifar10-mini, {first.n_train:,} images, {first.checkpoint.pretrain_epochs} "
        f"epochs, {len(own)} seeds, test n = {first.n_test:,}), gain over `{base}` of the same "
        f"encoder: {', '.join(parts)}; linear, less `pixels`: {less(linear, name, 'pixels')}."
    )
    return textwrap.fill(text.replace("**", ""), 100, break_on_hyphens=False)


def shown(value: object) -> bool:
    """Whether a setting fits into a table: numbers and words, no augmentations."""
    return isinstance(value, bool | int | float | str) or value is None


@cache
def measured_speed() -> tuple[dict[str, Any], list[Timing]]:
    """What `sslbench bench --json` wrote into docs/speed.json."""
    found = json.loads((ROOT / "docs" / "speed.json").read_text(encoding="utf-8"))
    timings = []
    for one in found["timings"]:
        goal = Goal(**one["goal"]) if one["goal"] else None
        seconds = (tuple(one["ours"]), tuple(one["theirs"]))
        who = (one["name"], one["work"], one["peer"])
        timings.append(Timing(*who, *seconds, goal, one["same"], one["numbers"]))
    return found, timings


def speed() -> str:
    """Every line of the run but those of scaling."""
    found, timings = measured_speed()
    lines = []
    for timing in timings:
        if timing.name.startswith("scaling/"):
            continue
        ours, theirs, ratio, between, goal, reached = cells(timing)
        ratio += f" [{between}]" if between else ""
        who = f"{timing.work}; **{timing.peer}**" if timing.peer else timing.work
        lines.append([timing.name, who, ours, theirs, ratio, goal, reached])
    head = ["", "the work; **the peer**", "ours", "peer", "ratio [95 %]", "goal", ""]
    machine = found["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    where = (
        f"{machine['hardware']}, {found['cpus']} threads, medians of {found['rounds']} rounds; "
        f"{machine['created'][:10]}, commit {machine['git_commit'][:12]}; {versions}."
    )
    return "\n\n".join([table(head, lines), where])


def equal() -> str:
    """What was found equal before it was timed."""
    _, timings = measured_speed()
    return "\n".join(f"- {timing.name}: {timing.same}" for timing in timings if timing.same)


def growth() -> str:
    """Time and memory of every series, by size."""
    _, timings = measured_speed()
    series: dict[str, list[Timing]] = {}
    for timing in timings:
        first, _, rest = timing.name.partition("/")
        if first == "scaling":
            series.setdefault(rest.rpartition("/")[0], []).append(timing)
    lines = []
    for name, points in series.items():
        for timing in points:
            n, peak = int(timing.numbers["n"]), timing.numbers["peak_mb"]
            lines.append([name, f"{n:,}", f"{timing.value:.3g}", f"{peak:,.0f}"])
    return table(["", "n", "seconds", "MB more at the peak"], lines)


LANGUAGE = ["untrained", "mlm", "electra", "simcse", "untrained-gpt2", "lm"]
LANGUAGE += ["untrained-embeddings", "word2vec", "minilm"]


def pages() -> Iterator[tuple[Path, str, Callable[[], str]]]:
    """File, name of what stands in it, and what writes it."""
    docs = ROOT / "docs"
    yield docs / "methods.md", "methods", methods
    yield docs / "tasks.md", "tasks", tasks
    far: list[Names] = [("knn", "koppen", None), ("linear_probe", "koppen", None)]
    wanted, pixels = [KNN, LINEAR, BEST_LAYER, *far], ("pixels", LINEAR)
    yield docs / "methods.md", VISION, lambda: scores(VISION, rows(VISION), wanted, pixels)
    yield docs / "methods.md", f"verdicts of {VISION}", partial(verdicts, VISION)
    yield docs / "methods.md", f"cost of {VISION}", lambda: compute(VISION, rows(VISION))
    trained = [
        (task + variant, dataset, f"{metric}_over_trials")
        for task, variants, dataset, metric in (
            ("detection", ("", "-fine_tuned"), "treecrowns", "map"),
            ("segmentation", ("", "-fcn"), "landmask", "miou"),
        )
        for variant in variants
    ]
    yield docs / "tasks.md", f"trials of {TASKS}", lambda: over_trials(TASKS, trained)
    yield docs / "tasks.md", f"adaptations of {TASKS}", partial(adaptations, TASKS)
    for path in sorted(ROOT.glob("methods/*/*.py")):
        if MEASURED in path.read_text(encoding="utf-8"):
            yield path, MEASURED, partial(in_words, path.stem)
    yield docs / "methods.md", "augmentations", lambda: composition("augmentations", LINEAR)
    yield docs / "text.md", "language", lambda: scores("language", LANGUAGE)
    emoji: list[Names] = [("image_text_retrieval", "emoji", None)]
    for dataset in ("emoji", "emoji-subcategories"):
        emoji += [(task, dataset, None) for task in ("zero_shot", "knn", "linear_probe")]
    board, both = "image-text", ["untrained", "clip", "siglip"]
    yield docs / "image-text.md", board, lambda: scores(board, both, emoji)
    theirs = ["efficientnet-lite0", "vit-s-focus", "minilm", "supervised", "simclr", "untrained"]
    yield docs / "evaluate.md", "external", lambda: scores("external", theirs)
    for name, write in (("speed", speed), ("equal", equal), ("growth", growth)):
        yield docs / "speed.md", name, write
    pairs = [("clip", "siglip")]
    yield docs / "image-text.md", "clip and siglip", lambda: apart(board, pairs, emoji)


def written(page: str, name: str, content: str) -> str:
    """The page with what belongs between its markers, or the docstring with its paragraph.

    Raises:
        ValueError: the page has no such markers.
    """
    if name == MEASURED:
        paragraph = re.compile(f'{MEASURED}.*?(?=\\n\\n|\\n?""")', re.DOTALL)
        return paragraph.sub(lambda _: content, page, count=1)
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if start not in page or end not in page:
        raise ValueError(f"markers of {name!r} expected")
    before, rest = page.split(start)
    return f"{before}{start}\n{content}\n{end}{rest.split(end)[1]}"


if __name__ == "__main__":
    for path, name, content in pages():
        write_text(path, written(path.read_text(), name, content()))
