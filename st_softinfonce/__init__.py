"""Soft-InfoNCE for sentence-transformers: a contrastive loss for negatives that are not equally negative."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from st_softinfonce._lazy import lazy_names

if TYPE_CHECKING:
    # With their own names as aliases, which is how type checkers know that they are public.
    from st_softinfonce.calibration import calibrate as calibrate
    from st_softinfonce.estimators import *  # noqa: F403 - all of its names, as below
    from st_softinfonce.evaluators import CodeRetrievalEvaluator as CodeRetrievalEvaluator
    from st_softinfonce.inspection import inspect_pairs as inspect_pairs
    from st_softinfonce.known_queries import KnownQueries as KnownQueries
    from st_softinfonce.losses import (
        CachedSoftInfoNCELoss as CachedSoftInfoNCELoss,
        SoftInfoNCELoss as SoftInfoNCELoss,
    )
    from st_softinfonce.posterior import RelevancePosterior as RelevancePosterior
    from st_softinfonce.treatments import (
        Discount as Discount,
        Distill as Distill,
        Mask as Mask,
        Promote as Promote,
        Soften as Soften,
        Treatment as Treatment,
    )

    __version__: str

# Where each public name lives; it is imported on first use.
_HOMES: dict[str, list[str]] = {
    "calibration": ["calibrate"],
    "estimators": import_module("st_softinfonce.estimators").__all__,
    "evaluators": ["CodeRetrievalEvaluator"],
    "inspection": ["inspect_pairs"],
    "known_queries": ["KnownQueries"],
    "losses": ["CachedSoftInfoNCELoss", "SoftInfoNCELoss"],
    "posterior": ["RelevancePosterior"],
    "treatments": ["Discount", "Distill", "Mask", "Promote", "Soften", "Treatment"],
}
_get, _list_names = lazy_names(__name__, _HOMES, modules=("functional", *_HOMES))

__all__ = ["__version__", *sorted(name for names in _HOMES.values() for name in names)]

if not TYPE_CHECKING:  # type checkers would take any name

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            return version("st-softinfonce")
        return _get(name)


def __dir__() -> list[str]:
    return sorted({*_list_names(), "__version__"})
