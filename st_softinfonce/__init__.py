"""Soft-InfoNCE for sentence-transformers: in-batch negatives weighted by how likely they are to be relevant."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from st_softinfonce.estimators import (
        BM25Estimator,
        PairwiseEstimator,
        SimilarityEstimator,
        TextColumn,
        WeightingParameters,
        get_estimator,
        list_estimators,
    )
    from st_softinfonce.losses import CachedSoftInfoNCELoss, SoftInfoNCELoss

    __version__: str

__all__ = [
    "BM25Estimator",
    "CachedSoftInfoNCELoss",
    "PairwiseEstimator",
    "SimilarityEstimator",
    "SoftInfoNCELoss",
    "TextColumn",
    "WeightingParameters",
    "__version__",
    "get_estimator",
    "list_estimators",
]

_MODULES = ("estimators", "functional", "losses")

if not TYPE_CHECKING:  # or type checkers would take any name

    def __getattr__(name: str) -> Any:
        # On first use: the command line must answer --help without waiting for torch.
        if name == "__version__":
            from importlib.metadata import version

            value: Any = version("st-softinfonce")
        elif name in _MODULES:
            return import_module(f"{__name__}.{name}")
        elif name in __all__:
            value = getattr(import_module(f"{__name__}.{'losses' if name.endswith('Loss') else 'estimators'}"), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
