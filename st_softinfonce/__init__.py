"""Soft-InfoNCE for sentence-transformers: in-batch negatives weighted by how likely they are to be relevant."""

from importlib.metadata import version

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

__version__ = version("st-softinfonce")

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
