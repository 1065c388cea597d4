"""Pairs of a query and code from anyone's sources, and splits of them that do not leak."""

from st_softinfonce.data.duplicates import find_near_duplicates, limit_duplicates
from st_softinfonce.data.files import Source, installed_distribution
from st_softinfonce.data.mining import mine_pairs
from st_softinfonce.data.parquet import mine_to_parquet
from st_softinfonce.data.report import MiningReport
from st_softinfonce.data.splits import split_by_package

__all__ = [
    "MiningReport",
    "Source",
    "find_near_duplicates",
    "installed_distribution",
    "limit_duplicates",
    "mine_pairs",
    "mine_to_parquet",
    "split_by_package",
]
