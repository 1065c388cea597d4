"""Everything taken from sentence-transformers that is not its public interface: one place to look when it moves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from textwrap import dedent
from typing import Any

import torch.distributed as dist
import torch.nn.functional as F
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from sentence_transformers.base.losses.gradcache import (
    CachedLossMixin as CachedLossMixin,
    has_static_embedding_input as has_static_embedding_input,
)
from sentence_transformers.base.losses.merged_forward import (
    embed_columns as embed_columns,
    embed_columns_padded as embed_columns_padded,
)
from sentence_transformers.util import (
    all_gather,
    cat_padded_token_embeddings as cat_padded_token_embeddings,
    get_world_size,
)
from torch import nn

# What the host's collator takes for labels, by name.
LABEL_COLUMNS = ("label", "labels", "score", "scores", "dataset_name")

_MARKS = "<!-- st-softinfonce: MTEB results -->", "<!-- /st-softinfonce: MTEB results -->"
# From the last opening mark before a closing one: text after a mark whose other one was lost is not ours.
_RESULTS = re.compile("{0}(?:(?!{0}).)*?{1}".format(*map(re.escape, _MARKS)), re.DOTALL)


def add_evaluation_to_stored_card(model: Any) -> None:
    """Add a model's evaluation to the card that it was loaded with, if that is the one that will be saved.

    The host writes a new card for a model that it has trained. A model that was loaded and not trained since keeps
    its card as it is, without what has been measured since. Results that were added before are replaced where they
    stand, between their marks; the rest of the text may be anyone's and stays.
    """
    data, text = model.model_card_data, model._model_card_text
    if not text or "generated_from_trainer" in data.tags:
        return
    card = ModelCard(text)
    metadata: Any = card.data
    evaluation = data.format_eval_metrics()
    metadata.model_name = metadata.model_name or data.model_name or data.get_default_model_name()
    _, results = model_index_to_eval_results([{**evaluation["model-index"][0], "name": metadata.model_name}])
    measured = {result.dataset_name for result in results}
    earlier = [result for result in metadata.eval_results or [] if result.dataset_name not in measured]
    metadata.eval_results = earlier + results
    metrics = [metadata.metrics] if isinstance(metadata.metrics, str) else metadata.metrics or []
    metadata.metrics = list(dict.fromkeys([*metrics, *evaluation["metrics"]]))
    parts = []
    for group in evaluation["eval_metrics"]:
        names = [group["dataset_name"]] if isinstance(group["dataset_name"], str) else group["dataset_name"]
        heading = f"### {group['description']}: {', '.join(f'`{name}`' for name in names)}"
        parts += [heading, dedent(group["config_code"]), group["table"]]
    section = "\n\n".join([_MARKS[0], *parts, _MARKS[1]])
    text, replaced = _RESULTS.subn(lambda _: section, card.text)
    card.text = text if replaced else f"{text.rstrip()}\n\n## MTEB results\n\n{section}\n"
    model._model_card_text = str(card)


def column_tokenizer(model: nn.Module, features: Mapping[str, Any]) -> Any:
    """Find the tokenizer that made a column's features, ``None`` for a model without one. The model may be wrapped."""
    *_, innermost = _unwrapped(model)
    if not isinstance(innermost, nn.Sequential):
        return None
    first = innermost[0]
    routes = getattr(first, "sub_modules", None)
    if routes is None:
        return getattr(first, "tokenizer", None)
    route = features.get("task")  # which a Router model reads, too
    if route not in routes:
        route = first.default_route or next(iter(routes))
    return getattr(routes[route][0], "tokenizer", None)


def gather_rows(rows: Any, padding: Any) -> Any:
    """Gather representations of all devices, as many of each, in the order of the ranks and without gradient.

    The ``padding`` of their estimator fills up narrower ones.
    """
    if isinstance(rows, tuple):
        paddings = padding if isinstance(padding, tuple) else (padding,) * len(rows)
        return tuple(gather_rows(part, fill) for part, fill in zip(rows, paddings, strict=True))
    if padding is not None and get_world_size() > 1:
        width = rows.new_tensor(rows.size(1))
        dist.all_reduce(width, op=dist.ReduceOp.MAX)
        rows = F.pad(rows, (0, int(width) - rows.size(1)), value=padding)
    return all_gather(rows)


def training_columns(model: nn.Module) -> list[list[str]]:
    """Name the columns of each dataset that a model is being trained on, labels left out; none outside a trainer."""
    *_, innermost = _unwrapped(model)
    card = getattr(innermost, "model_card_data", None)
    datasets = [] if card is None else card.train_datasets
    return [[name for name in dataset.get("stats", {}) if name not in LABEL_COLUMNS] for dataset in datasets]


def _unwrapped(model: nn.Module) -> Iterator[nn.Module]:
    """Go from the model through what wraps it (``torch.compile``, several devices) to the model itself."""
    inner: nn.Module | None = model
    while inner is not None:
        yield inner
        if isinstance(inner, nn.Sequential):
            return
        inner = getattr(inner, "_orig_mod", None) or getattr(inner, "module", None)
