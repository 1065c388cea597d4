"""Estimators: how relevant is each candidate of a batch to each query?"""

from typing import TYPE_CHECKING

from st_softinfonce._lazy import lazy_names

if TYPE_CHECKING:
    # With their own names as aliases, which is how type checkers know that they are public.
    from st_softinfonce.estimators.base import SimilarityEstimator as SimilarityEstimator
    from st_softinfonce.estimators.bm25 import BM25Estimator as BM25Estimator
    from st_softinfonce.estimators.by_text import ByText as ByText
    from st_softinfonce.estimators.cross_encoder import CrossEncoderEstimator as CrossEncoderEstimator
    from st_softinfonce.estimators.encoder import (
        SimCSEEstimator as SimCSEEstimator,
        TrainedModelEstimator as TrainedModelEstimator,
    )
    from st_softinfonce.estimators.known import (
        IdenticalEstimator as IdenticalEstimator,
        KnownRelevanceEstimator as KnownRelevanceEstimator,
        SelfEstimator as SelfEstimator,
    )
    from st_softinfonce.estimators.mixture import MixtureEstimator as MixtureEstimator
    from st_softinfonce.estimators.near_duplicate import NearDuplicateEstimator as NearDuplicateEstimator
    from st_softinfonce.estimators.pairwise import PairwiseEstimator as PairwiseEstimator
    from st_softinfonce.estimators.registry import (
        EstimatorInfo as EstimatorInfo,
        get_estimator as get_estimator,
        list_estimators as list_estimators,
    )
    from st_softinfonce.estimators.simcse_training import train_simcse as train_simcse
    from st_softinfonce.estimators.text_column import TextColumn as TextColumn

# Where each public name lives; it is imported on first use.
_HOMES = {
    "base": ["SimilarityEstimator"],
    "bm25": ["BM25Estimator"],
    "by_text": ["ByText"],
    "cross_encoder": ["CrossEncoderEstimator"],
    "encoder": ["SimCSEEstimator", "TrainedModelEstimator"],
    "known": ["IdenticalEstimator", "KnownRelevanceEstimator", "SelfEstimator"],
    "mixture": ["MixtureEstimator"],
    "near_duplicate": ["NearDuplicateEstimator"],
    "pairwise": ["PairwiseEstimator"],
    "registry": ["EstimatorInfo", "get_estimator", "list_estimators"],
    "simcse_training": ["train_simcse"],
    "text_column": ["TextColumn"],
}

if not TYPE_CHECKING:  # type checkers would take any name, and cannot read such a list
    __all__ = sorted(name for names in _HOMES.values() for name in names)
    __getattr__, __dir__ = lazy_names(__name__, _HOMES)
