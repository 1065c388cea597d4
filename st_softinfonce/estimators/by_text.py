"""What a user knows about texts, found again by what the model in training reads of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_softinfonce.estimators.text_column import TextColumn, columns_read_by
from st_softinfonce.vectors import content_keys

Value = TypeVar("Value")
# If none of this many first columns holds a known text, a warning says so.
_COLUMNS_WITHOUT_A_HIT = 5


class ByText(Generic[Value]):
    """Anything a user knows about texts: original text, id, package, label, found by a text's tokens.

    An estimator is given what the model in training reads of a text (:class:`TextColumn`), not the text. This finds
    what belongs to it, by the ids that the model reads, on their device. If none of the first texts looked up is
    found, a warning says so: the texts, or how they are preprocessed, are probably not those of the training data.

    Args:
        values: Text to value.
        model: The model in training: its tokenizer and maximum length decide what is read of a text.
        **reading: ``role`` (by default ``"document"``), ``max_length``, ``prompt`` and ``task``, as for
            :meth:`TextColumn.as_read_by`.

    Attributes:
        values: The values that can be found, one a text; :meth:`index` returns places in this list.
        ambiguous: How many texts were left out, as the model reads them like another text of another value.

    Raises:
        ValueError: ``values`` is empty, or a text is not a string.

    Example:
        >>> from sentence_transformers.sentence_transformer.modules import StaticEmbedding
        >>> from tokenizers import Tokenizer, models
        >>> tokenizer = Tokenizer(models.WordLevel({"sort": 0, "list": 1}))
        >>> model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=2)], device="cpu")
        >>> ByText({"sort": "algorithms"}, model).of(TextColumn.from_texts(["list", "sort"], tokenizer))
        [None, 'algorithms']
    """

    def __init__(self, values: Mapping[str, Value], model: SentenceTransformer, **reading: Any) -> None:
        if not isinstance(values, Mapping) or not values:
            raise ValueError(f"values must map at least one text to a value, got {type(values).__name__} of none.")
        for text in values:
            if not isinstance(text, str):
                raise ValueError(
                    f"values must have texts as keys, got {text!r}. Turn it round if needed: text to value."
                )
        columns = columns_read_by(model, list(values), **{"role": "document", **reading})
        keys = [key for column in columns for key in content_keys(column.key_ids).tolist()]
        value_of: dict[int, Value] = {}
        ambiguous: set[int] = set()
        for key, value in zip(keys, values.values(), strict=True):
            if value_of.setdefault(key, value) != value:
                ambiguous.add(key)
        kept = sorted(value_of.keys() - ambiguous)
        self.values: list[Value] = [value_of[key] for key in kept]
        self.ambiguous = sum(key in ambiguous for key in keys)
        # One key more, so that even an empty table has one to compare with.
        self._keys = torch.tensor([*kept, torch.iinfo(torch.int64).max], dtype=torch.int64)
        self._columns = 0
        self._hits: Tensor | None = None

    def __len__(self) -> int:
        """Return how many texts can be found."""
        return len(self.values)

    def index(self, column: TextColumn) -> Tensor:
        """Return the place ``(n,)`` of each text's value in :attr:`values`, -1 where there is none.

        It is found on the column's device and without waiting for it.
        """
        if self._keys.device != column.device:
            self._keys = self._keys.to(column.device)
        keys = content_keys(column.key_ids)
        place = torch.searchsorted(self._keys, keys).clamp(max=len(self.values))
        index = place.masked_fill((self._keys[place] != keys) | (place == len(self.values)), -1)
        self._watch(index)
        return index

    def of(self, column: TextColumn) -> list[Value | None]:
        """Return the value of each of a column's texts, ``None`` where there is none. Waits for the device."""
        return [None if place < 0 else self.values[place] for place in self.index(column).tolist()]

    def _watch(self, index: Tensor) -> None:
        """Warn once if none of the first columns holds a text that is known; later columns are not looked at."""
        if self._columns >= _COLUMNS_WITHOUT_A_HIT or torch.compiler.is_compiling():
            return
        hits = (index >= 0).sum()
        self._hits = hits if self._hits is None else self._hits.to(hits.device) + hits
        self._columns += 1
        if self._columns == _COLUMNS_WITHOUT_A_HIT and int(self._hits) == 0:
            warnings.warn(
                f"None of the texts in the first {self._columns} columns looked up is among the {len(self):,} known "
                "ones. Give the texts as they are in the training data, and role, max_length, prompt and task as "
                "given to the trainer.",
                UserWarning,
                stacklevel=2,
            )
