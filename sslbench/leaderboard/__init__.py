"""Leaderboards: from records to CSV, a page and a table in the terminal."""

from sslbench.leaderboard.board import Board
from sslbench.leaderboard.merge import merge
from sslbench.leaderboard.publish import publish
from sslbench.leaderboard.terminal import table

__all__ = ["Board", "merge", "publish", "table"]
