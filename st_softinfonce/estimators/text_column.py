"""One column of a batch as an estimator sees it: token ids, a mask, and texts decoded only when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, Literal

import torch
from sentence_transformers.multi_vector_encoder import MultiVectorEncoder
from torch import Tensor

from st_softinfonce import _host

_AT_A_TIME = 4096


class TextColumn:
    """One column of a batch, as the model in training reads it.

    Padded inputs, flattened inputs (unpadded attention) and StaticEmbedding's bags all read the same here: one row a
    text. Token ids are copies of those the model in training sees: truncated, and lower-cased by an uncased tokenizer.

    Args:
        features: The column's features: ``input_ids`` with ``attention_mask``, with ``cu_seq_lens_q``, or with
            ``offsets``.
        tokenizer: The tokenizer that made the ids; needed for :attr:`texts` and to tell special tokens.
        special_ids: Ids that are no content, instead of the tokenizer's special tokens.
        role: What the texts are, for an encoder that treats queries and documents differently.

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
        self,
        features: Mapping[str, Any],
        tokenizer: Any = None,
        *,
        special_ids: Iterable[int] | None = None,
        role: Literal["query", "document"] = "query",
    ) -> None:
        if not isinstance(features.get("input_ids"), Tensor):
            raise ValueError(
                f"features must hold the tensor 'input_ids', got the keys {sorted(features)}: an estimator compares "
                "texts, so every column of the dataset must be one."
            )
        self.tokenizer = tokenizer
        self.role = role
        special, unknown = _special_and_unknown_ids(tokenizer) if special_ids is None else (special_ids, ())
        self.special_ids, self._unknown_ids = frozenset(special), frozenset(unknown)
        self._prompt_length = features.get("prompt_length")
        self.input_ids, self.attention_mask = _padded(features)

    @classmethod
    def from_texts(
        cls,
        texts: Sequence[str],
        tokenizer: Any,
        *,
        max_length: int | None = None,
        role: Literal["query", "document"] = "query",
    ) -> TextColumn:
        """Make a column outside a training step, on the CPU, by a tokenizer of transformers or tokenizers alone.

        Texts are truncated to ``max_length`` tokens, special tokens included.
        """
        if hasattr(tokenizer, "encode_batch"):
            rows = [
                [token for token, used in zip(encoding.ids, encoding.attention_mask, strict=True) if used]
                for encoding in tokenizer.encode_batch(list(texts))
            ]
        else:
            rows = tokenizer(list(texts), truncation=max_length is not None, max_length=max_length)["input_ids"]
        rows = [row[:max_length] for row in rows]
        lengths = torch.tensor([0, *(len(row) for row in rows)])
        flat = torch.tensor([token for row in rows for token in row], dtype=torch.int64)
        features = {"input_ids": flat, "cu_seq_lens_q": lengths.cumsum(0), "max_length_q": int(lengths.max())}
        return cls(features, tokenizer, role=role)

    @classmethod
    def as_read_by(
        cls,
        model: Any,
        texts: Sequence[str],
        *,
        role: Literal["query", "document"] = "query",
        max_length: int | Mapping[str, int] | None = None,
        prompt: str | None = None,
        task: str | None = None,
    ) -> TextColumn:
        """Make a column outside a training step, on the model's device, preprocessed as the trainer does it.

        Args:
            model: The model in training.
            texts: The texts, one row each.
            role: What the texts are, which is the task of a Router or multi-vector model without another one.
            max_length: As given to the trainer, if it is: for all texts or by task.
            prompt: The column's prompt as given to the trainer, if it is.
            task: The column's task as given to the trainer's ``router_mapping``, if it is.
        """
        if task is None and (hasattr(model[0], "sub_modules") or isinstance(model, MultiVectorEncoder)):
            task = role
        length = length_for(task, max_length)
        options = {} if length is None else {"max_length": length}
        features = model.preprocess(list(texts), prompt=prompt, task=task, **options) | {"task": task}
        moved = {
            key: value.to(model.device) if isinstance(value, Tensor) else value for key, value in features.items()
        }
        return cls(moved, _host.column_tokenizer(model, moved), role=role)

    def __len__(self) -> int:
        """Return the number of texts."""
        return self.input_ids.size(0)

    @property
    def device(self) -> torch.device:
        """The device of the token ids, where representations are expected."""
        return self.input_ids.device

    @cached_property
    def content_mask(self) -> Tensor:
        """Which tokens are the text's own ``(n, length)``, bool: no padding, special or unknown token, or prompt.

        A prompt is known where the host reports its length, which it does not for a StaticEmbedding.
        """
        return self._mask_without(self.special_ids)

    @cached_property
    def key_ids(self) -> Tensor:
        """As :attr:`content_ids`, but with unknown tokens: two texts are the same if these are."""
        return self.input_ids.masked_fill(~self._mask_without(self.special_ids - self._unknown_ids), -1)

    @property
    def empty(self) -> Tensor:
        """Which texts ``(n,)`` have no token at all, not even an unknown one; bool."""
        return (self.key_ids < 0).all(dim=1)

    def _mask_without(self, ids: frozenset[int]) -> Tensor:
        mask = self.attention_mask
        if ids:
            mask = mask & ~torch.isin(self.input_ids, _ids_on(ids, self.device))
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
        """What the model in training reads, decoded when first asked for.

        These are not the original texts: they are truncated, lower-cased and spaced as the model's tokenizer does it,
        and without prompt and special tokens. What belongs to the original text, such as an id, a package, a label or
        the text itself, is found with ``ByText``.

        Raises:
            ValueError: There is no tokenizer to decode with.
        """
        if self.tokenizer is None:
            raise ValueError("tokenizer is None: texts can only be decoded with the tokenizer that made the ids.")
        rows = [[token for token in row if token >= 0] for row in self.content_ids.tolist()]
        decode = getattr(self.tokenizer, "decode_batch", None) or self.tokenizer.batch_decode
        decoded: list[str] = decode(rows)
        return decoded


def length_for(task: str | None, max_length: int | Mapping[str, int] | None) -> int | None:
    """Find the length that a trainer with this ``max_length``, one for all texts or by task, truncates a column to."""
    return max_length.get(task or "") if isinstance(max_length, Mapping) else max_length


def columns_read_by(model: Any, texts: Sequence[str], **reading: Any) -> Iterator[TextColumn]:
    """Make columns of many texts as :meth:`TextColumn.as_read_by` does, some thousands at a time."""
    for start in range(0, len(texts), _AT_A_TIME):
        yield TextColumn.as_read_by(model, texts[start : start + _AT_A_TIME], **reading)


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
        # Copies, so that an estimator cannot write into what the model is about to read.
        return ids.clone(), torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool().clone()
    flat = ids.flatten()
    if width is None:
        width = int(lengths.max()) if len(lengths) else 0
    columns = torch.arange(max(int(width), 1), device=ids.device)
    mask = columns < lengths.unsqueeze(1)  # (n, width)
    if flat.numel() == 0:
        return torch.zeros_like(mask, dtype=torch.int64), mask
    return flat[(starts.unsqueeze(1) + columns).clamp(max=flat.numel() - 1)].masked_fill(~mask, 0), mask


def _special_and_unknown_ids(tokenizer: Any) -> tuple[set[int], set[int]]:
    """Ids of special tokens, which say nothing about a text, and of the unknown token, which is one of them."""
    if tokenizer is None:
        return set(), set()
    if hasattr(tokenizer, "all_special_ids"):
        special, unknown = set(tokenizer.all_special_ids), {tokenizer.unk_token_id}
    else:
        special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        token = getattr(tokenizer.model, "unk_token", None)
        unknown = {None if token is None else tokenizer.token_to_id(token)}
    unknown -= {None}
    return special | unknown, unknown


@lru_cache(maxsize=32)
def _ids_on(ids: frozenset[int], device: torch.device) -> Tensor:
    # Made once per device: copying from the host in every step would wait for the device.
    return torch.tensor(sorted(ids), device=device)
