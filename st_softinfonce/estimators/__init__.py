"""Estimators: how relevant is each candidate of a batch to each query?"""

from typing import TYPE_CHECKING

from st_softinfonce._lazy import lazy_names

if TYPE_CHECKING:
    from st_softinfonce.estimators.base import SimilarityEstimator
    from st_softinfonce.estimators.bm25 import BM25Estimator
    from st_softinfonce.estimators.by_text import ByText
    from st_softinfonce.estimators.cross_encoder import CrossEncoderEstimator
    from st_softinfonce.estimators.encoder import SimCSEEstimator, TrainedModelEstimator
    from st_softinfonce.estimators.known import IdenticalEstimator, KnownRelevanceEstimator, SelfEstimator
    from st_softinfonce.estimators.mixture import MixtureEstimator
    from st_softinfonce.estimators.near_duplicate import NearDuplicateEstimator
    from st_softinfonce.estimators.pairwise import PairwiseEstimator
    from st_softinfonce.estimators.registry import EstimatorInfo, get_estimator, list_estimators
    from st_softinfonce.estimators.simcse_training import train_simcse
    from st_softinfonce.estimators.text_column import TextColumn

__all__ = [
    "BM25Estimator",
    "ByText",
    "CrossEncoderEstimator",
    "EstimatorInfo",
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
    "train_simcse",
]

if not TYPE_CHECKING:  # type checkers would take any name
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
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
        },
    )
