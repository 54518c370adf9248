"""Leaderboards: from records to CSV, a page and a table in the terminal."""

from sslbench.leaderboard.board import Board
from sslbench.leaderboard.compare import compare
from sslbench.leaderboard.merge import merge
from sslbench.leaderboard.publish import publish
from sslbench.leaderboard.terminal import table
from sslbench.leaderboard.validate import validate

__all__ = ["Board", "compare", "merge", "publish", "table", "validate"]
