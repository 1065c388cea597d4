"""Pairs of a query and code from anyone's sources or CodeSearchNet, and splits of them that do not leak."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from st_softinfonce.data.code_search_net import load_code_search_net
    from st_softinfonce.data.discovery import Source, installed_distribution
    from st_softinfonce.data.duplicates import find_near_duplicates, limit_duplicates
    from st_softinfonce.data.mining import mine_pairs
    from st_softinfonce.data.mining_report import MiningReport
    from st_softinfonce.data.parquet import mine_to_parquet
    from st_softinfonce.data.splits import split_by_origin, split_by_package

# Imported on first use: the processes that mine files need neither datasets nor pyarrow.
_MODULES = {
    "MiningReport": "mining_report",
    "Source": "discovery",
    "find_near_duplicates": "duplicates",
    "installed_distribution": "discovery",
    "limit_duplicates": "duplicates",
    "load_code_search_net": "code_search_net",
    "mine_pairs": "mining",
    "mine_to_parquet": "parquet",
    "split_by_origin": "splits",
    "split_by_package": "splits",
}

__all__ = [
    "MiningReport",
    "Source",
    "find_near_duplicates",
    "installed_distribution",
    "limit_duplicates",
    "load_code_search_net",
    "mine_pairs",
    "mine_to_parquet",
    "split_by_origin",
    "split_by_package",
]

if not TYPE_CHECKING:  # or type checkers would take any name

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            module = import_module(f"{__name__}.{_MODULES[name]}")
        except ModuleNotFoundError as error:
            if (error.name or "").startswith(f"{__name__}."):
                raise
            raise ImportError(
                f"st_softinfonce.data.{name} needs {error.name}, which is not installed: pip install "
                '"st-softinfonce[mining]".'
            ) from error
        value = getattr(module, name)
        globals()[name] = value
        return value
