"""Losses for the trainers of sentence-transformers."""

from st_softinfonce.losses.cached import CachedSoftInfoNCELoss
from st_softinfonce.losses.input_watch import InputWarning
from st_softinfonce.losses.multi_vector import MultiVectorSoftInfoNCELoss
from st_softinfonce.losses.soft_info_nce import SoftInfoNCELoss
from st_softinfonce.losses.sparse import CachedSoftSpladeLoss, SoftCSRLoss, SoftSpladeLoss

__all__ = [
    "CachedSoftInfoNCELoss",
    "CachedSoftSpladeLoss",
    "InputWarning",
    "MultiVectorSoftInfoNCELoss",
    "SoftCSRLoss",
    "SoftInfoNCELoss",
    "SoftSpladeLoss",
]
