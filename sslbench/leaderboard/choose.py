"""Which row a name on the command line means."""

import re
from collections.abc import Collection

from sslbench.errors import UserError, suggest
from sslbench.leaderboard import text
from sslbench.leaderboard.board import Row


def choose(rows: Collection[Row], wanted: str) -> Row:
    """The row of this name, or of `NAME,WORD,…` with words that are in its encoder, data or epochs.

    Raises:
        UserError: there is none, or several.
    """
    name, *words = (part.strip() for part in wanted.split(","))
    found = [row for row in rows if wanted in (row.name, text.label(row))]
    found = found or [row for row in rows if row.name == name and all(_has(row, w) for w in words)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{wanted!r} names {len(found)} rows; add words of the encoder, dataset or epochs that "
            f"only one has, as NAME,WORD,…: {listed(found)}"
        )
    if known := [row for row in rows if row.name == name]:
        raise UserError(f"no row {wanted!r}; there is: {listed(known)}")
    raise UserError(f"no row {wanted!r}; {suggest(name, sorted({row.name for row in rows}))}")


def _has(row: Row, word: str) -> bool:
    """Whether it says so in whole words: 10 is not in cifar10, nor width=1 in width=16."""
    said = ", ".join([*text.about(row), str(row.pretrain_epochs)])
    return re.search(rf"(?<![^\W_]){re.escape(word)}(?![^\W_])", said) is not None


def listed(rows: Collection[Row]) -> str:
    """All of them, with all that is known of each."""
    return "; ".join(text.label(row) for row in sorted(rows))
