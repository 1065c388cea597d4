"""Losses for the trainers of sentence-transformers."""

from st_softinfonce.losses.in_batch import InputWarning
from st_softinfonce.losses.soft_info_nce import CachedSoftInfoNCELoss, SoftInfoNCELoss

__all__ = ["CachedSoftInfoNCELoss", "InputWarning", "SoftInfoNCELoss"]
