"""Is a checkpoint what its owner thinks: did it load, and do its features carry a signal?"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.markup import escape
from rich.table import Table

from sslbench.checkpoint import load_encoder
from sslbench.data import load
from sslbench.data.fetch import NotFetched
from sslbench.data.split import Dataset, Split
from sslbench.data.weights import completed, located
from sslbench.encoder import Encoder, build
from sslbench.errors import NotApplicable, UserError
from sslbench.external.request import Request
from sslbench.features import features
from sslbench.geometry import rankme
from sslbench.neighbors import knn_correct
from sslbench.statistics import interval, paired
from sslbench.threads import threads

TRAIN, HELD_OUT, SEED = 1_000, 500, 0
BATCH = 32  # what a CPU's cache holds; a sixth faster than 256 for a ViT-S
USUAL = {"image": ("cifar10-mini", "digits"), "text": ("sentiment",)}  # the first that is there
NEIGHBOURS = "kNN (k = 20)"
EARLY = 0.001  # p of the first half below which the second is not looked at (Haybittle–Peto)
LEVELS = ("ok", "warning", "problem")
CLOSE = 1e-4  # of the largest feature: what batches of another size may change by rounding


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        level: one of `LEVELS`.
    """

    name: str
    level: str
    text: str


@dataclass(frozen=True)
class Diagnosis:
    """What a checkpoint is, and what was looked at.

    Attributes:
        facts: by name, as they are shown; plain values.
        numbers: the same and more for programs; plain values.
    """

    facts: dict[str, str]
    numbers: dict[str, Any]
    checks: list[Check]

    @property
    def healthy(self) -> bool:
        """Whether there is no problem; warnings are none."""
        return all(check.level != "problem" for check in self.checks)

    def plain(self) -> dict[str, Any]:
        """For `--json`."""
        checks = [asdict(check) for check in self.checks]
        return {**self.numbers, "checks": checks, "healthy": self.healthy}


def examine(
    path: str,
    request: Request,
    dataset: str | None,
    cpus: int | None,
    report: Callable[[str], None],
) -> Diagnosis:
    """Load a checkpoint and look at its features of a fixed sample of train and validation.

    Args:
        path: of the checkpoint, or `fetched:NAME`.
        request: what it does not say itself.
        dataset: where the sample comes from; None: cifar10-mini, or digits where that was not
            fetched, for images, and sentiment for texts.
        cpus: threads, None for all cores.
        report: called with what is being done.

    Raises:
        UserError: there is nothing to look at: no checkpoint, or a damaged one.
    """
    report("loading")
    place, request = located(path, Path()), completed(path, request)
    refused = None
    try:
        encoder, about = load_encoder(place, request)
    except UserError as error:
        try:  # what is there says more than the error alone
            encoder, about = load_encoder(place, replace(request, allow_missing=True))
        except UserError:
            raise error from None
        refused = str(error)
    data = _data([dataset] if dataset else USUAL[encoder.modality])
    facts, numbers = _facts(path, encoder, about)
    train, held_out = _sample(data, "train", TRAIN), _sample(data, "validation", HELD_OUT)
    facts["data"] = (
        f"{len(train):,} of {len(data['train']):,} train and {len(held_out):,} of "
        f"{len(data['validation']):,} validation examples of {data.name}, drawn with seed {SEED}"
    )
    numbers |= {"dataset": data.name, "n_train": len(train), "n_validation": len(held_out)}
    checks = [_loaded(about, refused), _weights(encoder)]
    encoder.to("cuda" if torch.cuda.is_available() else "cpu")
    with threads(cpus or os.cpu_count() or 1):
        report("features")
        try:
            banks = [_features(encoder, split) for split in (train, held_out)]
        except FloatingPointError as error:
            checks.append(Check("features", "problem", str(error)))
            return Diagnosis(facts, numbers, checks)
        checks += [_spread(banks[0], numbers), _repeats(encoder, held_out, numbers)]
        report("the same untrained")
        checks.append(_signal(encoder, banks, (train, held_out), data, numbers))
    return Diagnosis(facts, numbers, checks)


def _data(names: Sequence[str]) -> Dataset:
    """The first that is there. Raises NotFetched where none is."""
    *first, last = names
    for name in first:
        with suppress(NotFetched):
            return load(name)
    return load(last)


def _sample(data: Dataset, name: str, count: int) -> Split:
    """The same examples every time, in their order."""
    split = data[name]
    if split.labels is None or split.labels.ndim != 1:
        raise UserError(f"{data.name} has no labels, one for each example, for nearest neighbours")
    drawn = np.random.default_rng(SEED).permutation(len(split))[:count]
    return split.take(np.sort(drawn))


def _features(encoder: Encoder, split: Split) -> np.ndarray:
    (found,) = features(encoder, split, cache=False, batch=BATCH).values()
    return found


def _facts(path: str, encoder: Encoder, about: dict[str, Any]) -> tuple[dict[str, str], Any]:
    """What the checkpoint is."""
    found, config = about.get("external", {}), encoder.config
    seen = sum(weights.numel() for weights in encoder.parameters())
    count = found.get("parameters") or seen
    facts = {
        "checkpoint": path,
        "format": found.get("format", "sslbench"),
        "architecture": f"{encoder.label}, {count:,} parameters",
    }
    if place := found.get("weights"):
        facts["weights at"] = place + "".join(f"; also fits: {o}" for o in found["others"])
    if encoder.image_size:
        said = found.get("preprocessing") or "as it was pretrained"
        facts["preprocessing"] = f"{_prepared(config)}  ({said})"
    facts["features"] = f"{encoder.dim} dimensions"
    numbers = {
        "checkpoint": path,
        "format": facts["format"],
        "encoder": encoder.label,
        "config": config,
        "parameters": count,
        "dim": encoder.dim,
        "weights_hash": about["weights_hash"],
        **{key: found[key] for key in found if key not in ("format",)},
    }
    return facts, numbers


def _prepared(config: dict[str, Any]) -> str:
    """The preprocessing in one line."""
    of = config.get("image", config)
    colours = [f"{key} {', '.join(f'{v:.3g}' for v in of[key])}" for key in ("mean", "std")]
    cut = "both sides resized" if of.get("squash") else f"crop {of.get('crop', 1.0):.3g}"
    order = of.get("channels", "rgb")
    return f"{of['image_size']} px, {of.get('interpolation', 'bilinear')}, {cut}, " + "; ".join(
        [*colours, order]
    )


def _loaded(about: dict[str, Any], refused: str | None) -> Check:
    found = about.get("external")
    if not found:
        return Check("loading", "ok", "written by sslbench, checksums agree")
    share = f"{found['matched']} of {found['wanted']} weights found by name and shape"
    if refused is not None:
        return Check("loading", "problem", f"{share}; evaluate refuses it: {refused}")
    rest = f"; {found['unused']} of the file's not used" if found["unused"] else ""
    stored = f"; stored as {found['dtype']}"
    if found["missing"]:
        lost = f"{share}; not {', '.join(found['missing'][:3])}"
        return Check("loading", "warning", f"{lost}: they keep their initialisation")
    return Check("loading", "ok", share + rest + stored)


def _weights(encoder: Encoder) -> Check:
    state = encoder.state_dict()
    floats = {n: t for n, t in state.items() if t.is_floating_point()}
    broken = [name for name, tensor in floats.items() if not tensor.isfinite().all()]
    if broken:
        text = f"not finite in {len(broken)} of {len(floats)}: {', '.join(broken[:3])}"
        return Check("weights", "problem", text)
    return Check("weights", "ok", f"all finite, {len(floats)} tensors")


def _spread(bank: np.ndarray, numbers: dict[str, Any]) -> Check:
    """Constant dimensions, and the rank."""
    spread = bank.std(axis=0)
    constant = int((spread <= 1e-6 * np.abs(bank).max(initial=1e-30)).sum())
    zero = float((bank == 0).mean())
    rank, most = rankme(torch.from_numpy(bank)), min(bank.shape)
    numbers |= {"constant_dimensions": constant, "zeros": zero, "rankme": rank}
    text = f"finite; RankMe {rank:.1f} of at most {most}; {zero:.0%} zeros"
    if constant == bank.shape[1]:
        return Check("features", "problem", "the same for every example")
    if constant:
        text += f"; {constant} of {bank.shape[1]} dimensions constant"
    low = rank < 0.02 * most or constant > bank.shape[1] / 2
    return Check("features", "warning" if low else "ok", text)


@torch.inference_mode()
def _repeats(encoder: Encoder, split: Split, numbers: dict[str, Any]) -> Check:
    """The same examples once more, and one by one."""
    encoder.eval()
    index = torch.arange(min(8, len(split)))
    inputs = encoder.preprocess(split[index].to(encoder.device))
    first, second = encoder(inputs), encoder(inputs)
    alone = [encoder(encoder.preprocess(split[i].to(encoder.device))) for i in index.split(1)]
    scale = float(first.abs().max().clamp_min(1e-30))
    apart = float((torch.cat(alone) - first).abs().max()) / scale
    numbers |= {"repeats": bool(torch.equal(first, second)), "batch_difference": apart}
    if not torch.equal(first, second):
        return Check("determinism", "problem", "the same examples give other features")
    text = f"the same features again; one by one they differ by {apart:.0e} of the largest"
    return Check("determinism", "ok" if apart < CLOSE else "problem", text)


def _signal(
    encoder: Encoder,
    banks: list[np.ndarray],
    splits: tuple[Split, Split],
    data: Dataset,
    numbers: dict[str, Any],
) -> Check:
    """Nearest neighbours, against those of the same encoder at its initialisation."""
    labels = [np.asarray(split.labels) for split in splits]
    groups, mine = splits[1].groups, _correct(banks, labels)
    numbers |= {"knn": float(mine.mean()), "baseline": None}
    text = f"{NEIGHBOURS} {mine.mean():.3f}"
    other, name = _without_training(encoder, splits[0])
    if other is None:
        _, low, high = interval(mine, groups)
        text += f" [{low:.3f}, {high:.3f}], chance {data.chance:.3f}"
        return Check("signal", "ok" if low > data.chance else "problem", text)
    halves = [np.array_split(np.random.default_rng(SEED).permutation(len(s)), 2) for s in splits]
    theirs = [np.empty((0, other.dim), np.float32) for _ in splits]
    for part in (0, 1):  # the second only where the first does not tell them apart
        for i, split in enumerate(splits):
            theirs[i] = np.concatenate([theirs[i], _features(other, split.take(halves[i][part]))])
        seen = [np.concatenate(half[: part + 1]) for half in halves]
        of = [label[index] for label, index in zip(labels, seen, strict=True)]
        a = _correct([bank[index] for bank, index in zip(banks, seen, strict=True)], of)
        b = _correct(theirs, of)
        found = paired(a, b, None if groups is None else groups[seen[1]])
        if found.p < EARLY:
            break
    numbers |= {
        "baseline": name,
        "n_compared": [len(index) for index in seen],
        "knn_compared": float(a.mean()),
        "knn_baseline": float(b.mean()),
        "difference": found.value,
        "low": found.low,
        "high": found.high,
    }
    if part == 0:
        text += f"; from {len(seen[0])} of the train examples, on {len(seen[1])}: {a.mean():.3f}"
    text += f", {name} {b.mean():.3f}: {found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    if found.low > 0:
        return Check("signal", "ok", text)
    return Check("signal", "problem", f"{text}: no better than {name}")


def _correct(banks: list[np.ndarray], labels: list[np.ndarray]) -> np.ndarray:
    return knn_correct(banks[0], labels[0], banks[1], labels[1]).astype(np.float64)


def _without_training(encoder: Encoder, train: Split) -> tuple[Encoder | None, str]:
    """The same encoder at its initialisation; pixels where it cannot be made again."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        try:
            return encoder.variant().to(encoder.device).eval(), "its own initialisation"
        except (NotApplicable, UserError):
            if encoder.modality != "image":
                return None, ""
    size = min(encoder.image_size or 32, 32)
    return build({"name": "pixels", "image_size": size}, train), f"the images at {size} pixels"


def table(diagnosis: Diagnosis) -> Table:
    """The facts, then the checks with their levels."""
    shown = Table(box=None, pad_edge=False, show_header=False)
    shown.add_column(no_wrap=True)
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    for name, text in diagnosis.facts.items():
        shown.add_row("", name, escape(text))
    shown.add_row()
    colours = {"ok": "green", "warning": "yellow", "problem": "bold red"}
    for check in diagnosis.checks:
        level = f"[{colours[check.level]}]{check.level}[/]"
        shown.add_row(level, check.name, escape(check.text))
    return shown
