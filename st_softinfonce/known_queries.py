"""The queries of mined hard negatives, so that an estimator of queries can judge them too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_softinfonce.estimators.base import join_rows
from st_softinfonce.estimators.by_text import ByText
from st_softinfonce.estimators.text_column import TextColumn, columns_read_by


class KnownQueries:
    """The query of each document that has one.

    A mined hard negative is some other query's positive, and often a false negative. Knowing that query, an estimator
    that compares queries can judge it like any negative of the batch. Documents without a known query are left alone:
    they keep weight 1 and are left out when the weights of the others are computed.

    Args:
        query_of: Document to query, e.g. ``dict(zip(pairs["code"], pairs["query"]))`` of the data the negatives were
            mined from. Documents with different queries that the model reads alike count as not known.
        model: The model in training: its tokenizer makes both.
        query_prompt: As ``prompt`` for :meth:`TextColumn.as_read_by`, of the queries.
        query_task: As ``task``, likewise.
        **reading: ``max_length``, and the documents' ``prompt`` and ``task``.

    Raises:
        ValueError: ``query_of`` is empty, or holds something else than texts.

    Example:
        >>> from sentence_transformers.sentence_transformer.modules import StaticEmbedding
        >>> from tokenizers import Tokenizer, models
        >>> tokenizer = Tokenizer(models.WordLevel({"def": 0, "sort": 1}))
        >>> model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=2)], device="cpu")
        >>> known = KnownQueries({"def": "sort"}, model)
        >>> known.of(TextColumn.from_texts(["def", "sort"], tokenizer))[1]
        tensor([ True, False])
    """

    def __init__(
        self,
        query_of: Mapping[str, str],
        model: SentenceTransformer,
        *,
        query_prompt: str | None = None,
        query_task: str | None = None,
        **reading: Any,
    ) -> None:
        if not query_of:
            raise ValueError("query_of must map at least one document to its query, got none.")
        bad = next((query for query in query_of.values() if not isinstance(query, str)), None)
        if bad is not None:
            raise ValueError(f"query_of must map documents to queries, texts both, got the query {bad!r}.")
        self._by_document = ByText(query_of, model, **reading)
        queries = self._by_document.values or [""]
        of_queries = {"role": "query", "prompt": query_prompt, "task": query_task}
        columns = columns_read_by(model, queries, **reading | of_queries)
        ids = join_rows([column.content_ids.cpu() for column in columns], -1)
        assert isinstance(ids, Tensor)  # of tensors, not of tuples
        self._ids = ids
        self.documents = len(query_of)

    def of(self, documents: TextColumn) -> tuple[TextColumn, Tensor]:
        """Return the queries of a column of documents, empty where unknown, and which are known ``(n,)``, bool.

        They are found on the column's device and without waiting for it.
        """
        if self._ids.device != documents.device:
            self._ids = self._ids.to(documents.device)
        place = self._by_document.index(documents)
        found = place >= 0
        ids = self._ids[place.clamp(min=0)].masked_fill(~found.unsqueeze(1), -1)  # (n, longest known query)
        features = {"input_ids": ids.clamp(min=0), "attention_mask": ids >= 0}
        return TextColumn(features, documents.tokenizer, special_ids=(), role="query"), found
