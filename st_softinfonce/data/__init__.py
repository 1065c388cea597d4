"""Pairs of a query and code from anyone's source trees, and splits of them that do not leak."""

from st_softinfonce.data.mining import mine_pairs
from st_softinfonce.data.report import MiningReport
from st_softinfonce.data.splits import split_by_package

__all__ = ["MiningReport", "mine_pairs", "split_by_package"]
