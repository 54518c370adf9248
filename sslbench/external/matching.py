"""Which of the tensors in a checkpoint are the encoder's, by name and shape."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from sslbench.errors import UserError
from sslbench.external.layouts import LAYOUTS

# Of several sets of weights that fit, the one whose place holds the first word is taken when the
# places of all others hold the second: what each project evaluates itself.
PREFERRED = (
    ("teacher", "student"),  # DINO, iBOT, DINOv2
    ("ema", ""),  # timm: the average of the weights along the training
    ("encoder_q", "encoder_k"),  # MoCo
    ("online", "target"),  # BYOL
    ("base_encoder", "momentum"),  # MoCo v3
    ("target_encoder", "encoder"),  # I-JEPA
    ("", "momentum"),  # solo-learn, lightly
    ("", "target"),
)
OPTIONAL = "num_batches_tracked"  # old checkpoints do not count; nothing is computed with it


@dataclass(frozen=True)
class Match:
    """One way to take the encoder's weights from a checkpoint.

    Attributes:
        place: keys that lead to the tensors, and the prefix of their names.
        layout: name of the naming, "" for the encoder's own.
        found: the encoder's name → the checkpoint's tensor, where the shapes agree.
        misshapen: the encoder's name → the tensor of another shape.
        missing: the encoder's names that are not there.
        unused: names in the same dictionary that the encoder does not have.
        further: places of whole blocks among them that continue a row of the encoder's: the
            checkpoint is of a deeper architecture.
    """

    place: str
    layout: str
    found: Mapping[str, Tensor]
    misshapen: Mapping[str, Tensor]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    further: tuple[str, ...] = ()

    @property
    def lacking(self) -> int:
        """How many of the encoder's weights were not found, or have another shape."""
        return len(self.missing) + len(self.misshapen)

    @property
    def wanted(self) -> int:
        """How many weights the encoder has."""
        return len(self.found) + self.lacking

    @property
    def whole(self) -> bool:
        """Whether nothing lacks, and nothing shows that the architecture is another."""
        return self.lacking == 0 and not self.further


def matches(wanted: Mapping[str, Tensor], sets: list[tuple[str, dict[str, Tensor]]]) -> list[Match]:
    """Every prefix of every dictionary under which some of the weights are, best first.

    Args:
        wanted: the encoder's parameters and buffers.
        sets: dictionaries of tensors, with their places.
    """
    out = []
    for layout, rename in LAYOUTS.items():
        theirs = rename(tuple(wanted))
        if theirs is None:
            continue
        for place, tensors in sets:
            for prefix in _prefixes(set(theirs.values()), tensors):
                out.append(_match(wanted, theirs, tensors, place, prefix, layout))
    out.sort(key=lambda match: (match.lacking, len(match.further)))
    return out


def _prefixes(theirs: set[str], tensors: Mapping[str, Tensor]) -> list[str]:
    """The few prefixes under which most names are found."""
    counts: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in theirs:
                counts["".join(f"{part}." for part in parts[:cut])] += 1
    if not counts:
        return []
    most = max(counts.values())
    return [prefix for prefix, count in counts.items() if count > most / 2]


def _match(
    wanted: Mapping[str, Tensor],
    theirs: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    place: str,
    prefix: str,
    layout: str,
) -> Match:
    found: dict[str, Tensor] = {}
    misshapen: dict[str, Tensor] = {}
    missing, used = [], set()
    for name, tensor in wanted.items():
        key = prefix + theirs[name]
        if key not in tensors:
            if not name.endswith(OPTIONAL):
                missing.append(name)
            continue
        used.add(key)
        there = found if tensors[key].shape == tensor.shape else misshapen
        there[name] = tensors[key]
    spelled = ": ".join(part for part in (place, prefix) if part)
    unused = tuple(name for name in tensors if name not in used)
    rest = [name.removeprefix(prefix) for name in unused if name.startswith(prefix)]
    further = _further([*theirs.values()], rest)
    return Match(spelled, layout, found, misshapen, tuple(missing), unused, further)


def _further(names: list[str], rest: list[str]) -> tuple[str, ...]:
    """Numbered blocks of at least 3 tensors, in rows that the encoder has shorter."""
    rows = {before for name in names for before, _ in _numbered(name)}
    blocks = Counter(
        f"{before}{number}" for name in rest for before, number in _numbered(name) if before in rows
    )
    own = {f"{before}{number}" for name in names for before, number in _numbered(name)}
    return tuple(block for block, count in blocks.items() if count > 2 and block not in own)


def _numbered(name: str) -> Iterator[tuple[str, str]]:
    """`layer1.2.conv1.weight` → ("layer1.", "2"): each number in a name, with what precedes it."""
    for found in re.finditer(r"(?<=\.)\d+(?=\.)", name):
        yield name[: found.start()], found[0]


def choose(fitting: list[Match], weights: str | None, path: str) -> Match:
    """The one to load among those that fit equally well.

    Args:
        fitting: at least one.
        weights: a part of the place, as the user gave it.
        path: of the checkpoint, for the error.

    Raises:
        UserError: several are left, or none.
    """
    places = ", ".join(repr(match.place) for match in fitting)
    if weights is not None:
        chosen = [match for match in fitting if weights in match.place]
        if not chosen:
            raise UserError(f"{path}: no weights at {weights!r}; those at {places} fit")
        fitting, places = chosen, ", ".join(repr(match.place) for match in chosen)
    if len(fitting) == 1 or _same(fitting):
        return fitting[0]
    for first, second in PREFERRED:
        holders = [match for match in fitting if _holds(match, first, second)]
        rest = [match for match in fitting if match not in holders]
        if len(holders) == 1 and all(not second or _has(match, second) for match in rest):
            return holders[0]
    raise UserError(f"{path}: {len(fitting)} sets of weights fit: {places}; --weights chooses one")


def _holds(match: Match, first: str, second: str) -> bool:
    return _has(match, first) if first else not _has(match, second)


def _has(match: Match, word: str) -> bool:
    """Whether a place holds a word, or several with underscores between them."""
    return re.search(rf"(?<![a-z]){word}(?![a-z])", match.place) is not None


def _same(fitting: list[Match]) -> bool:
    """Whether all hold the same numbers."""
    first = fitting[0].found
    return all(
        value.equal(first[name]) for match in fitting[1:] for name, value in match.found.items()
    )
