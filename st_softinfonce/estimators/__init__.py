"""Estimators: how relevant is each candidate of a batch to each query?"""

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
from st_softinfonce.estimators.text_column import TextColumn
from st_softinfonce.estimators.train_simcse import train_simcse

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
