"""Soft-InfoNCE for sentence-transformers: a contrastive loss for negatives that are not equally negative."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from st_softinfonce._lazy import lazy_names

if TYPE_CHECKING:
    # With their own names as aliases, which is how type checkers know that they are public.
    from st_softinfonce.calibration import calibrate as calibrate
    from st_softinfonce.estimators import (
        BM25Estimator as BM25Estimator,
        ByText as ByText,
        CrossEncoderEstimator as CrossEncoderEstimator,
        IdenticalEstimator as IdenticalEstimator,
        KnownRelevanceEstimator as KnownRelevanceEstimator,
        MixtureEstimator as MixtureEstimator,
        NearDuplicateEstimator as NearDuplicateEstimator,
        PairwiseEstimator as PairwiseEstimator,
        SelfEstimator as SelfEstimator,
        SimCSEEstimator as SimCSEEstimator,
        SimilarityEstimator as SimilarityEstimator,
        TextColumn as TextColumn,
        TrainedModelEstimator as TrainedModelEstimator,
        get_estimator as get_estimator,
        list_estimators as list_estimators,
    )
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
_HOMES = {
    "calibration": ["calibrate"],
    "estimators": [
        "BM25Estimator",
        "ByText",
        "CrossEncoderEstimator",
        "IdenticalEstimator",
        "KnownRelevanceEstimator",
        "MixtureEstimator",
        "NearDuplicateEstimator",
        "PairwiseEstimator",
        "SelfEstimator",
        "SimCSEEstimator",
        "SimilarityEstimator",
        "TextColumn",
        "TrainedModelEstimator",
        "get_estimator",
        "list_estimators",
    ],
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
