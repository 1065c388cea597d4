"""The estimator contract: what a plugin implements, and what it is given.

An estimator says how similar each candidate of a batch is to each query. It is a plain object, never an
``nn.Module`` of the loss: the trainer replaces, moves and optimises modules, and an estimator is frozen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from st_softinfonce.functional import check_weighting

COMPARES = ("queries", "documents")


@dataclass(frozen=True)
class WeightingParameters:
    """The parameters of Eq. 4 (Li et al. 2023) that suit an estimator's scores.

    Args:
        alpha: At least 0; 0 is plain InfoNCE.
        beta: Above 0; ``alpha + beta = 2`` keeps the loss on InfoNCE's scale.
        temperature: Above 0, in units of the estimator's similarity.

    Raises:
        ValueError: A parameter is out of range.
    """

    alpha: float
    beta: float
    temperature: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_weighting(alpha=self.alpha, beta=self.beta, temperature=self.temperature, min_weight=1.0)


class TextColumn:
    """One column of a batch, as the trainer hands it to the loss.

    Padded inputs, flattened inputs (unpadded attention) and StaticEmbedding's bags all read the same here: one row a
    text. Token ids are those the model in training sees, so they are truncated, and lower-cased by an uncased
    tokenizer.

    Args:
        features: The column's features: ``input_ids`` with ``attention_mask``, with ``cu_seq_lens_q``, or with
            ``offsets``. Never changed.
        tokenizer: The tokenizer that made the ids; needed for :attr:`texts` and to tell special tokens.
        special_ids: Ids that are no content, instead of the tokenizer's special tokens.

    Raises:
        ValueError: The features hold no token ids.

    Example:
        >>> ids = torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]])
        >>> column = TextColumn({"input_ids": ids, "attention_mask": (ids > 0).long()}, special_ids={0, 2, 3})
        >>> column.content_ids
        tensor([[-1,  7,  8, -1],
                [-1,  9, -1, -1]])
    """

    def __init__(
        self, features: Mapping[str, Any], tokenizer: Any = None, *, special_ids: Iterable[int] | None = None
    ) -> None:
        if not isinstance(features.get("input_ids"), Tensor):
            raise ValueError(
                f"features must hold the tensor 'input_ids', got the keys {sorted(features)}: an estimator compares "
                "texts, so every column of the dataset must be one."
            )
        self.tokenizer = tokenizer
        self.special_ids = frozenset(_special_ids(tokenizer) if special_ids is None else special_ids)
        self._prompt_length = features.get("prompt_length")
        self.input_ids, self.attention_mask = _padded(features)

    @classmethod
    def from_texts(cls, texts: Sequence[str], tokenizer: Any, *, max_length: int | None = None) -> TextColumn:
        """Make a column of texts outside a training step, tokenized as a transformer's input.

        Args:
            texts: The texts, one row each.
            tokenizer: A tokenizer of transformers, or a ``tokenizers.Tokenizer``.
            max_length: Truncate to this many tokens, special tokens included.

        Returns:
            A column of ``len(texts)`` rows on the CPU.
        """
        if hasattr(tokenizer, "encode_batch"):
            rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
        else:
            rows = tokenizer(list(texts), truncation=max_length is not None, max_length=max_length)["input_ids"]
        rows = [row[:max_length] for row in rows]
        lengths = torch.tensor([0, *(len(row) for row in rows)])
        flat = torch.tensor([token for row in rows for token in row], dtype=torch.int64)
        features = {"input_ids": flat, "cu_seq_lens_q": lengths.cumsum(0), "max_length_q": int(lengths.max())}
        return cls(features, tokenizer)

    def __len__(self) -> int:
        """Return the number of texts."""
        return self.input_ids.size(0)

    @property
    def device(self) -> torch.device:
        """The device of the token ids, where representations are expected."""
        return self.input_ids.device

    @cached_property
    def content_mask(self) -> Tensor:
        """Which tokens are the text's own ``(n, length)``, bool: no padding, special token or prompt."""
        mask = self.attention_mask
        if self.special_ids:
            mask = mask & ~torch.isin(self.input_ids, _ids_on(self.special_ids, self.device))
        if self._prompt_length is not None:
            # Every row of a column has the same prompt. A tensor stays on its device: reading it would wait for it.
            length = self._prompt_length
            length = length.flatten()[0] if isinstance(length, Tensor) else length
            first = self.attention_mask.int().argmax(dim=1, keepdim=True)  # (n, 1), not 0 with left padding
            mask = mask & (torch.arange(mask.size(1), device=self.device) >= first + length)
        return mask

    @cached_property
    def content_ids(self) -> Tensor:
        """The token ids ``(n, length)``, int64, -1 where there is no content (see :attr:`content_mask`)."""
        return self.input_ids.masked_fill(~self.content_mask, -1)

    @cached_property
    def texts(self) -> list[str]:
        """The texts as the model in training sees them, without prompt and special tokens; decoded once.

        Raises:
            ValueError: There is no tokenizer to decode with.
        """
        if self.tokenizer is None:
            raise ValueError("tokenizer is None: texts can only be decoded with the tokenizer that made the ids.")
        rows = [[token for token in row if token >= 0] for row in self.content_ids.tolist()]
        decode = getattr(self.tokenizer, "decode_batch", None) or self.tokenizer.batch_decode
        decoded: list[str] = decode(rows)
        return decoded


class SimilarityEstimator(ABC):
    """How similar each candidate of a batch is to each query.

    :meth:`represent` and :meth:`similarity` are apart so that a representation can be kept by its text, gathered
    across devices, and scored a few rows at a time, without the author of an estimator doing anything for it.

    Attributes:
        name: What model cards call it; by default the name of the class.
        weighting: ``alpha``, ``beta`` and ``temperature`` that suit its scores.
        compares: Whether candidate ``j`` is judged by its own query (``"queries"``) or by its own text
            (``"documents"``). Comparing queries, an explicit hard negative has no query of its own and keeps weight 1.
        padding: What fills up representations of different widths, for those that are as wide as the longest text
            of a batch; ``None`` when every batch has the same width.
    """

    name: ClassVar[str]
    weighting: WeightingParameters
    compares: Literal["queries", "documents"]
    padding: ClassVar[float | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Name the estimator after its class unless it names itself."""
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__

    @abstractmethod
    def represent(self, column: TextColumn) -> Tensor:
        """Turn each text into a row of numbers.

        Args:
            column: ``n`` texts: the queries, or one column of documents when comparing documents.

        Returns:
            ``(n, ...)`` on the column's device, without gradient.
        """

    @abstractmethod
    def similarity(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Compare every query with every candidate.

        Args:
            queries: ``(n, ...)`` representations, possibly only some rows of the batch.
            candidates: ``(m, ...)`` representations of all the candidates of the batch.

        Returns:
            ``(n, m)`` floating point, higher is more relevant.
        """

    def for_batch(self, candidates: Tensor) -> SimilarityEstimator:
        """Return the estimator to use for a batch with these candidates.

        Called once a step, before :meth:`similarity` is asked for groups of rows. An estimator with statistics over
        the batch takes them here; by default there are none and the estimator is its own answer.

        Args:
            candidates: ``(m, ...)`` representations of all the candidates of the batch.

        Returns:
            An estimator whose :meth:`similarity` gives for any part of the rows or candidates what it would give for
            the whole.
        """
        return self

    def get_config_dict(self) -> dict[str, Any]:
        """Return the options worth reading in a model card, as JSON primitives.

        Returns:
            Option names and values; by default none.
        """
        return {}


def check_estimator(estimator: object, source: str) -> SimilarityEstimator:
    """Refuse an object that does not keep the contract, naming what is missing.

    Args:
        estimator: The object to check.
        source: Who made it, for the message: a name and its distribution, or "estimator".

    Returns:
        The same object.

    Raises:
        TypeError: It is no SimilarityEstimator, or is an ``nn.Module`` as well.
        ValueError: ``weighting`` or ``compares`` is missing or not allowed.
    """
    if not isinstance(estimator, SimilarityEstimator):
        raise TypeError(
            f"{source} must be the name of an estimator or a SimilarityEstimator, got {type(estimator).__name__}. "
            "Subclass st_softinfonce.SimilarityEstimator."
        )
    if isinstance(estimator, nn.Module):
        raise TypeError(
            f"{source} is an nn.Module, which the trainer would move, replace and optimise. Keep the module in an "
            "attribute of a plain SimilarityEstimator."
        )
    if not isinstance(getattr(estimator, "weighting", None), WeightingParameters):
        raise ValueError(
            f"{source} must have a 'weighting' of type WeightingParameters, got "
            f"{getattr(estimator, 'weighting', None)!r}. Its values suit the scale of the estimator's scores."
        )
    compares = getattr(estimator, "compares", None)
    if compares not in COMPARES:
        raise ValueError(f"{source} must have 'compares' set to one of {COMPARES}, got {compares!r}.")
    return estimator


def checked_representation(estimator: SimilarityEstimator, column: TextColumn) -> Tensor:
    """Ask for a representation and refuse one that breaks the contract.

    Args:
        estimator: The estimator to ask.
        column: ``n`` texts.

    Returns:
        ``(n, ...)`` without gradient.

    Raises:
        ValueError: The result is no tensor, has not one row a text, is on another device, or requires a gradient.
    """
    with torch.no_grad():
        representation = estimator.represent(column)
    asked = f"{estimator.name}.represent() must return a tensor with one row for each of {len(column)} texts"
    if not isinstance(representation, Tensor):
        raise ValueError(f"{asked}, got {type(representation).__name__}.")
    if representation.dim() == 0 or representation.size(0) != len(column):
        raise ValueError(f"{asked}, got the shape {tuple(representation.shape)}.")
    if representation.device != column.device:
        raise ValueError(f"{asked} on {column.device}, got one on {representation.device}. Use column.device.")
    return _without_gradient(representation, f"{estimator.name}.represent()")


def checked_similarity(estimator: SimilarityEstimator, queries: Tensor, candidates: Tensor) -> Tensor:
    """Ask for similarities and refuse what breaks the contract.

    Args:
        estimator: The estimator to ask.
        queries: ``(n, ...)`` representations.
        candidates: ``(m, ...)`` representations.

    Returns:
        ``(n, m)`` floating point, without gradient.

    Raises:
        ValueError: The result is no floating-point tensor of that shape, or requires a gradient.
    """
    with torch.no_grad():
        similarity = estimator.similarity(queries, candidates)
    shape = (queries.size(0), candidates.size(0))
    asked = f"{estimator.name}.similarity() must return a floating-point tensor of shape {shape} (queries, candidates)"
    if not isinstance(similarity, Tensor):
        raise ValueError(f"{asked}, got {type(similarity).__name__}.")
    if tuple(similarity.shape) != shape or not similarity.is_floating_point():
        raise ValueError(f"{asked}, got {similarity.dtype} of shape {tuple(similarity.shape)}.")
    return _without_gradient(similarity, f"{estimator.name}.similarity()")


def join_representations(parts: Sequence[Tensor], padding: float | None) -> Tensor:
    """Put representations of several columns (or devices) below each other.

    Args:
        parts: ``(n_k, ...)`` each.
        padding: What fills up narrower parts; ``None`` when all must be equally wide.

    Returns:
        ``(sum n_k, ...)``.

    Raises:
        ValueError: The parts differ in width and ``padding`` is ``None``.
    """
    if len({part.shape[1:] for part in parts}) > 1:
        if padding is None or any(part.dim() != 2 for part in parts):
            raise ValueError(
                f"representations have the shapes {[tuple(part.shape) for part in parts]}: rows of one batch must be "
                "equally wide. Set the estimator's 'padding' if its rows are (n, longest text)."
            )
        width = max(part.size(1) for part in parts)
        parts = [F.pad(part, (0, width - part.size(1)), value=padding) for part in parts]
    return torch.cat(list(parts))


def _without_gradient(tensor: Tensor, source: str) -> Tensor:
    if tensor.requires_grad:
        raise ValueError(
            f"{source} returned a tensor that requires a gradient: an estimator is frozen, and nothing may flow back "
            "into it. Return tensor.detach(), or call requires_grad_(False) on the model behind it."
        )
    return tensor


def _padded(features: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Read ids and attention mask, each ``(n, length)``, from any of the host's three input layouts."""
    ids: Tensor = features["input_ids"]
    if "cu_seq_lens_q" in features:
        starts = features["cu_seq_lens_q"][:-1]
        lengths = features["cu_seq_lens_q"][1:] - starts
        width = features.get("max_length_q")
    elif "offsets" in features:
        starts = features["offsets"]
        lengths = torch.cat([starts[1:], starts.new_tensor([ids.numel()])]) - starts
        width = None
    else:
        mask = features.get("attention_mask")
        return ids, torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    flat = ids.flatten()
    if width is None:
        width = int(lengths.max()) if len(lengths) else 0
    columns = torch.arange(max(int(width), 1), device=ids.device)
    mask = columns < lengths.unsqueeze(1)  # (n, width)
    if flat.numel() == 0:
        return torch.zeros_like(mask, dtype=torch.int64), mask
    return flat[(starts.unsqueeze(1) + columns).clamp(max=flat.numel() - 1)].masked_fill(~mask, 0), mask


def _special_ids(tokenizer: Any) -> set[int]:
    """Ids of the tokenizer's special tokens, the unknown token among them: they say nothing about a text."""
    if tokenizer is None:
        return set()
    if hasattr(tokenizer, "all_special_ids"):
        return set(tokenizer.all_special_ids)
    ids = {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    unknown = getattr(tokenizer.model, "unk_token", None)
    if unknown is not None and tokenizer.token_to_id(unknown) is not None:
        ids.add(tokenizer.token_to_id(unknown))
    return ids


@lru_cache(maxsize=32)
def _ids_on(ids: frozenset[int], device: torch.device) -> Tensor:
    # Made once per device: copying from the host in every step would wait for the device.
    return torch.tensor(sorted(ids), device=device)
