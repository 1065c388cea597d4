"""Everything taken from sentence-transformers that is not its public interface: one place to look when it moves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch.distributed as dist
import torch.nn.functional as F
from sentence_transformers.base.losses.gradcache import CachedLossMixin, has_static_embedding_input
from sentence_transformers.base.losses.merged_forward import embed_columns, embed_columns_padded
from sentence_transformers.sentence_transformer.losses import adaptive_layer, matryoshka
from sentence_transformers.util import all_gather, cat_padded_token_embeddings, get_world_size
from torch import Tensor, nn

__all__ = [
    "LABEL_COLUMNS",
    "CachedLossMixin",
    "cat_padded_token_embeddings",
    "column_tokenizer",
    "embed_columns",
    "embed_columns_padded",
    "gather_padded",
    "has_static_embedding_input",
    "wrapper_step",
]

# What the host's collator takes for labels, by name.
LABEL_COLUMNS = ("label", "labels", "score", "scores", "dataset_name")

_STEPS = (adaptive_layer.ForwardDecorator, matryoshka.ForwardDecorator)


def column_tokenizer(model: nn.Module, features: Mapping[str, Any]) -> Any:
    """Find the tokenizer that made a column.

    Args:
        model: The model in training, possibly wrapped (several devices, ``torch.compile``).
        features: The column's features; ``task`` says which route of a Router model it takes.

    Returns:
        The tokenizer, or ``None`` for a model without one.
    """
    *_, innermost = _unwrapped(model)
    if not isinstance(innermost, nn.Sequential):
        return None
    first = innermost[0]
    routes = getattr(first, "sub_modules", None)
    if routes is None:
        return getattr(first, "tokenizer", None)
    route = features.get("task")
    if route not in routes:
        route = first.default_route or next(iter(routes))
    return getattr(routes[route][0], "tokenizer", None)


def gather_padded(tensor: Tensor, padding: float | None) -> Tensor:
    """Gather rows of all devices, which may be padded to different widths, without gradient.

    Args:
        tensor: ``(n, ...)``, the same ``n`` on every device; ``(n, width)`` when there is a padding.
        padding: What fills up narrower rows; ``None`` when all are equally wide.

    Returns:
        ``(n * devices, ...)``, in the order of the ranks. Unchanged in a single process.
    """
    if padding is not None and get_world_size() > 1:
        width = tensor.new_tensor(tensor.size(1))
        dist.all_reduce(width, op=dist.ReduceOp.MAX)
        tensor = F.pad(tensor, (0, int(width) - tensor.size(1)), value=padding)
    return all_gather(tensor)


def wrapper_step(model: nn.Module) -> object | None:
    """Find the step of a wrapper loss that is calling, which calls its inner loss several times with one batch.

    The host's Matryoshka and adaptive-layer losses put an object of their own in the place of the model's forward,
    a new one in every step, and an inner wrapper puts another one around it.

    Args:
        model: The model in training, possibly wrapped.

    Returns:
        The outermost wrapper's object, or ``None`` outside such a loss.
    """
    for layer in _unwrapped(model):
        step = vars(layer).get("forward")
        if isinstance(step, _STEPS):
            while isinstance(step.fn, _STEPS):
                step = step.fn
            return step
    return None


def _unwrapped(model: nn.Module) -> Iterator[nn.Module]:
    """Go from the model through what wraps it (``torch.compile``, several devices) to the model itself."""
    inner: nn.Module | None = model
    while inner is not None:
        yield inner
        if isinstance(inner, nn.Sequential):
            return
        inner = getattr(inner, "_orig_mod", None) or getattr(inner, "module", None)
