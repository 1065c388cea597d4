"""The queries of mined hard negatives, so that an estimator of queries can judge them too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_softinfonce import _host
from st_softinfonce.estimators.base import TextColumn, join_representations
from st_softinfonce.vectors import content_keys

_CHUNK = 4096


class KnownQueries:
    """The query of each document that has one, found by the document's tokens on their device.

    A mined hard negative is some other query's positive, and where false negatives live. Knowing that query, an
    estimator that compares queries can weigh it like any negative of the batch. What is not known keeps weight 1,
    and does not count among the negatives that the others' weights are made from.

    Args:
        query_of: Document to query, e.g. ``dict(zip(pairs["code"], pairs["query"]))`` of the data the negatives were
            mined from. Documents with different queries that the model reads alike count as not known.
        model: The model in training: its tokenizer makes both.
        max_length: As given to the trainer, if it is: it decides where documents are truncated.
        prompt: The documents' prompt as given to the trainer, if it is: it takes up length.

    Raises:
        ValueError: ``query_of`` is empty.

    Example:
        >>> from sentence_transformers.sentence_transformer.modules import StaticEmbedding
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> tokenizer = Tokenizer(models.WordLevel({"def": 0, "sort": 1, "list": 2}))
        >>> tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=2)], device="cpu")
        >>> known = KnownQueries({"def sort": "sort list"}, model)
        >>> queries, found = known.of(TextColumn.from_texts(["def sort", "def list"], tokenizer))
        >>> queries.texts, found.tolist()
        (['sort list', ''], [True, False])
    """

    def __init__(
        self,
        query_of: Mapping[str, str],
        model: SentenceTransformer,
        *,
        max_length: int | None = None,
        prompt: str | None = None,
    ) -> None:
        if not query_of:
            raise ValueError("query_of must map at least one document to its query, got none.")
        options: dict[str, Any] = {} if max_length is None else {"max_length": max_length}
        documents, queries = list(query_of), list(query_of.values())
        keys: list[Tensor] = []
        ids: list[Tensor] = []
        for start in range(0, len(documents), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            tokenizer = _host.column_tokenizer(model, {})
            column = TextColumn(model.preprocess(documents[chunk], prompt=prompt, **options), tokenizer)
            keys.append(content_keys(column.key_ids).cpu())
            ids.append(TextColumn(model.preprocess(queries[chunk], **options), tokenizer).content_ids.cpu())
        all_keys, order = torch.cat(keys).sort()
        all_ids = join_representations(ids, -1)[order]
        self._keys, first, number = _different(all_keys)
        self._ids = all_ids[first]
        # Truncated, say: which of the queries it is cannot be known.
        several = number[(all_ids != self._ids[number]).any(dim=1)]
        self._certain = torch.ones_like(self._keys, dtype=torch.bool).index_fill(0, several, False)
        self.documents = len(documents)

    def of(self, documents: TextColumn) -> tuple[TextColumn, Tensor]:
        """Find the queries of a column of documents.

        Args:
            documents: ``n`` documents.

        Returns:
            Their queries as a column, empty where unknown; and which are known ``(n,)``, bool.
        """
        if self._keys.device != documents.device:
            self._keys, self._ids = self._keys.to(documents.device), self._ids.to(documents.device)
            self._certain = self._certain.to(documents.device)
        keys = content_keys(documents.key_ids)
        place = torch.searchsorted(self._keys, keys).clamp(max=self._keys.numel() - 1)
        found = (self._keys[place] == keys) & self._certain[place]
        ids = self._ids[place].masked_fill(~found.unsqueeze(1), -1)  # (n, longest known query)
        features = {"input_ids": ids.clamp(min=0), "attention_mask": ids >= 0}
        return TextColumn(features, documents.tokenizer, special_ids=(), role="query"), found


def _different(ordered: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the different ones among ordered keys, the place of each one's first, and the number of each key's."""
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return ordered[is_first], is_first.nonzero().squeeze(1), is_first.cumsum(0) - 1
