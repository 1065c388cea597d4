"""Estimators: how similar is each candidate of a batch to each query?"""

from st_softinfonce.estimators.base import PairwiseEstimator, SimilarityEstimator, TextColumn, WeightingParameters
from st_softinfonce.estimators.bm25 import BM25Estimator
from st_softinfonce.estimators.cross_encoder import CrossEncoderEstimator
from st_softinfonce.estimators.encoder import SimCSEEstimator, TrainedModelEstimator
from st_softinfonce.estimators.known_queries import KnownQueries
from st_softinfonce.estimators.mixture import MixtureEstimator
from st_softinfonce.estimators.near_duplicate import NearDuplicateEstimator
from st_softinfonce.estimators.registry import EstimatorInfo, get_estimator, list_estimators
from st_softinfonce.estimators.simcse import train_simcse

__all__ = [
    "BM25Estimator",
    "CrossEncoderEstimator",
    "EstimatorInfo",
    "KnownQueries",
    "MixtureEstimator",
    "NearDuplicateEstimator",
    "PairwiseEstimator",
    "SimCSEEstimator",
    "SimilarityEstimator",
    "TextColumn",
    "TrainedModelEstimator",
    "WeightingParameters",
    "get_estimator",
    "list_estimators",
    "train_simcse",
]
