"""Pairs of a query and code from anyone's sources or CodeSearchNet, and splits of them that do not leak."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from st_softinfonce._lazy import lazy_names

if TYPE_CHECKING:
    from st_softinfonce.data.code_search_net import load_code_search_net
    from st_softinfonce.data.discovery import Source, installed_distribution
    from st_softinfonce.data.duplicates import find_near_duplicates, limit_duplicates
    from st_softinfonce.data.languages import parse_function
    from st_softinfonce.data.mining import mine_pairs
    from st_softinfonce.data.mining_report import MiningReport
    from st_softinfonce.data.parquet import mine_to_parquet
    from st_softinfonce.data.splits import split_by_origin, split_by_package

# Imported on first use: the processes that mine files need neither datasets nor pyarrow.
_get, __dir__ = lazy_names(
    __name__,
    {
        "code_search_net": ["load_code_search_net"],
        "discovery": ["Source", "installed_distribution"],
        "duplicates": ["find_near_duplicates", "limit_duplicates"],
        "languages": ["parse_function"],
        "mining": ["mine_pairs"],
        "mining_report": ["MiningReport"],
        "parquet": ["mine_to_parquet"],
        "splits": ["split_by_origin", "split_by_package"],
    },
)

__all__ = [
    "MiningReport",
    "Source",
    "find_near_duplicates",
    "installed_distribution",
    "limit_duplicates",
    "load_code_search_net",
    "mine_pairs",
    "mine_to_parquet",
    "parse_function",
    "split_by_origin",
    "split_by_package",
]

if not TYPE_CHECKING:  # or type checkers would take any name

    def __getattr__(name: str) -> Any:
        try:
            return _get(name)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith(f"{__name__}."):
                raise
            raise ImportError(
                f"st_softinfonce.data.{name} needs {error.name}, which is not installed: pip install "
                '"st-softinfonce[mining]".'
            ) from error
