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
    ("", "encoder_k"),  # MoCo in mmpretrain
    ("online", "target"),  # BYOL
    ("base_encoder", "momentum"),  # MoCo v3
    ("target_encoder", "encoder"),  # I-JEPA
    ("", "momentum"),  # solo-learn, lightly
    ("", "target"),
)
OPTIONAL = "num_batches_tracked"  # old checkpoints do not count; nothing is computed with it
# Constants of an architecture, which only some versions of it save.
CONSTANT = (OPTIONAL, "relative_position_index", "attn_mask", "relative_coords_table")


@dataclass(frozen=True)
class Match:
    """One way to take the encoder's weights from a checkpoint.

    Attributes:
        place: keys that lead to the tensors, and the prefix of their names.
        layout: name of the naming, "" for the encoder's own.
        found: the encoder's name → the checkpoint's tensor, where the shapes agree.
        misshapen: the encoder's name → the tensor of another shape, or of no floating type.
        missing: the encoder's names that are not there.
        unused: names in the same dictionary that the encoder does not have.
        further: what among them shows that the architecture is another (see `further`).
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
        value = tensors[key]
        kinds = value.is_floating_point() or not tensor.is_floating_point()
        there = found if kinds and value.shape == tensor.shape else misshapen
        there[name] = value
    spelled = ": ".join(part for part in (place, prefix) if part)
    unused = tuple(name for name in tensors if name not in used)
    rest = [name.removeprefix(prefix) for name in unused if name.startswith(prefix)]
    beyond = further([*theirs.values()], rest)
    return Match(spelled, layout, found, misshapen, tuple(missing), unused, beyond)


def further(names: list[str], rest: list[str]) -> tuple[str, ...]:
    """What shows that weights are of another architecture, although all that is wanted is there.

    Args:
        names: of the encoder's weights.
        rest: names of weights that it does not have.

    Returns:
        Places of whole blocks (of at least 3 weights) that continue a row of the encoder's, and
        names of weights inside its blocks.
    """
    rows = {before for name in names for before, _ in _numbered(name)}
    own = {before + number for name in names for before, number in _numbered(name)}
    blocks: Counter[str] = Counter()
    inside = []
    for name in rest:
        if name.endswith(CONSTANT):
            continue
        places = [(before, before + number) for before, number in _numbered(name)]
        blocks.update(place for before, place in places if before in rows and place not in own)
        deepest = [place for before, place in places if before in rows]
        if deepest and deepest[-1] in own:
            inside.append(name)
    return (*(block for block, count in blocks.items() if count > 2), *inside)


def _numbered(name: str) -> Iterator[tuple[str, str]]:
    """`layer1.2.conv1.weight` → ("layer1.", "2"): each number in a name, with what precedes it."""
    for found in re.finditer(r"(?<=\.)\d+(?=\.)", name):
        yield name[: found.start()], found[0]


def choose(fitting: list[Match], path: str) -> Match:
    """The one to load among those that fit equally well.

    Raises:
        UserError: no rule decides.
    """
    different: list[Match] = []
    for match in fitting:
        if not any(_same(match, other) for other in different):
            different.append(match)
    if len(different) == 1:
        return different[0]
    for first, second in PREFERRED:
        holders = [match for match in different if _holds(match, first, second)]
        rest = [match for match in different if match not in holders]
        if len(holders) == 1 and all(not second or _has(match, second) for match in rest):
            return holders[0]
    places = ", ".join(repr(match.place) for match in different)
    count = len(different)
    raise UserError(f"{path}: {count} sets of weights fit: {places}; --weights chooses one")


def _holds(match: Match, first: str, second: str) -> bool:
    return _has(match, first) if first else not _has(match, second)


def _has(match: Match, word: str) -> bool:
    """Whether a place holds a word, or several with underscores between them."""
    return re.search(rf"(?<![a-z]){word}(?![a-z])", match.place) is not None


def _same(one: Match, other: Match) -> bool:
    """Whether both hold the same numbers."""
    names = {name for name in (*one.found, *other.found) if not name.endswith(OPTIONAL)}
    return all(
        name in one.found and name in other.found and one.found[name].equal(other.found[name])
        for name in names
    )
