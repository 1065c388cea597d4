"""The losses whose steps are measured: the host's, ours with each estimator, and the host's guided one."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses as host_losses
from torch import nn

from st_softinfonce import CachedSoftInfoNCELoss, Distill, Mask, SoftInfoNCELoss, get_estimator

HOST = "host"
GUIDED = "host's GISTEmbed"
UNWEIGHTED = "ours, no estimator"
TREATMENTS = {"": None, "mask": Mask(margin=0.05), "distill": Distill()}


def make_losses(
    model: SentenceTransformer, estimators: Sequence[str], mini_batch_size: int | None
) -> dict[str, Callable[[], nn.Module]]:
    """Say how to make each loss on one model: by name, a function that makes it and what it needs with it.

    Estimators are ``NAME``, ``NAME:OPTION=VALUE,...`` or either with ``+mask`` or ``+distill`` for what follows from
    it; the value ``guide`` is a frozen copy of the model. Gradients are cached if a mini-batch's size is given.
    """
    prefix = "" if mini_batch_size is None else "Cached"
    options = {} if mini_batch_size is None else {"mini_batch_size": mini_batch_size}
    plain = getattr(host_losses, f"{prefix}MultipleNegativesRankingLoss")
    guided = getattr(host_losses, f"{prefix}GISTEmbedLoss")
    ours = CachedSoftInfoNCELoss if prefix else SoftInfoNCELoss

    def guide() -> SentenceTransformer:
        return copy.deepcopy(model).eval().requires_grad_(False)

    def ours_with(text: str) -> nn.Module:
        estimator, _, treatment = text.partition("+")
        return ours(model, _estimator(estimator, guide), TREATMENTS[treatment], **options)

    return {
        HOST: lambda: plain(model, **options),
        UNWEIGHTED: lambda: ours(model, None, **options),
        **{text: partial(ours_with, text) for text in estimators},
        GUIDED: lambda: guided(model, guide(), **options),
    }


def _estimator(text: str, guide: Callable[[], SentenceTransformer]) -> Any:
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for option in filter(None, rest.split(",")):
        key, _, value = option.partition("=")
        try:
            options[key] = guide() if value == "guide" else json.loads(value)
        except json.JSONDecodeError:
            options[key] = value
    return get_estimator(name, **options)
