"""Estimators: how similar is each candidate of a batch to each query?"""

from st_softinfonce.estimators.base import SimilarityEstimator, TextColumn, WeightingParameters
from st_softinfonce.estimators.bm25 import BM25Estimator
from st_softinfonce.estimators.registry import EstimatorInfo, get_estimator, list_estimators

__all__ = [
    "BM25Estimator",
    "EstimatorInfo",
    "SimilarityEstimator",
    "TextColumn",
    "WeightingParameters",
    "get_estimator",
    "list_estimators",
]
