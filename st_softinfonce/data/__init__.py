"""Pairs of a query and code from anyone's source trees or CodeSearchNet, and splits of them that do not leak."""

from st_softinfonce.data.code_search_net import load_code_search_net
from st_softinfonce.data.mining import mine_pairs
from st_softinfonce.data.report import MiningReport
from st_softinfonce.data.splits import split_by_package

__all__ = ["MiningReport", "load_code_search_net", "mine_pairs", "split_by_package"]
