"""Soft-InfoNCE as a loss of sentence-transformers: embed the columns, ask the estimator, call ``functional``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import all_gather_with_grad, cos_sim, dot_score, get_rank, similarity_fct_name
from torch import Tensor, nn

from st_softinfonce import _host
from st_softinfonce.estimators.base import (
    SimilarityEstimator,
    TextColumn,
    checked_representation,
    checked_similarity,
    join_representations,
)
from st_softinfonce.estimators.registry import get_estimator
from st_softinfonce.functional import check_positive, check_weighting, negative_weights, soft_info_nce

Direction = Literal["query_to_doc", "doc_to_query"]
DIRECTIONS: tuple[tuple[Direction, ...], ...] = (("query_to_doc",), ("query_to_doc", "doc_to_query"))


class InputWarning(UserWarning):
    """The training data hold something that trains, but hardly as its owner meant it."""


class SoftInfoNCELoss(nn.Module):
    """InfoNCE whose in-batch negatives are weighted by how unlikely they are to be relevant.

    For a batch of (query, positive) pairs or (query, positive, negative_1, ..., negative_n) tuples (Li et al. 2023,
    Eq. 3), with ``s = scale * similarity_fct(query, document)``::

        -mean_i log( exp(s[i, i]) / (exp(s[i, i]) + sum_{j != i} w[i, j] exp(s[i, j])) )

    The weights ``w`` come from an estimator's similarities (:func:`~st_softinfonce.functional.negative_weights`,
    Eq. 4). With ``alpha=0`` this is ``MultipleNegativesRankingLoss``. Explicit negatives are candidates of every
    query; an estimator that compares queries leaves them at weight 1, one that compares documents weighs them too.

    Args:
        model: The model to train.
        estimator: An installed estimator's name (``list_estimators()``), or an instance with its own options.
        alpha: At least 0. Strength of the weighting; ``None`` takes the estimator's.
        beta: Above 0; ``None`` takes the estimator's.
        weight_temperature: Above 0, in units of the estimator's similarity; ``None`` takes the estimator's.
        min_weight: In (0, 1]. Floor of a negative's weight.
        scale: Above 0. Multiplies the model's similarity; the inverse of the softmax temperature.
        similarity_fct: ``(queries (B, D), documents (C, D)) -> (B, C)``.
        directions: With ``"doc_to_query"`` each positive also has to find its query among the batch's; both share
            one softmax. Its weights are the transposed similarity, which is exact for an estimator that compares
            documents or is symmetric, and an approximation for BM25 between queries, whose score of i for j is not
            that of j for i.
        gather_across_devices: Take the documents of all devices as candidates.

    Raises:
        ValueError: An option is out of range, the estimator is unknown or breaks its contract, or (at the first
            batch) the dataset has fewer than two columns or the estimator returns nan.

    Example:
        >>> loss = SoftInfoNCELoss(model, estimator="bm25")
        >>> loss.get_config_dict()["alpha"]
        1.5
    """

    def __init__(
        self,
        model: SentenceTransformer,
        estimator: str | SimilarityEstimator = "bm25",
        *,
        alpha: float | None = None,
        beta: float | None = None,
        weight_temperature: float | None = None,
        min_weight: float = 0.1,
        scale: float = 20.0,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = cos_sim,
        directions: Sequence[Direction] = ("query_to_doc",),
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.estimator = get_estimator(estimator)
        weighting = self.estimator.weighting
        self.alpha = weighting.alpha if alpha is None else alpha
        self.beta = weighting.beta if beta is None else beta
        self.weight_temperature = weighting.temperature if weight_temperature is None else weight_temperature
        self.min_weight = min_weight
        check_weighting(alpha=self.alpha, beta=self.beta, temperature=1.0, min_weight=min_weight)
        check_positive("weight_temperature", self.weight_temperature)
        check_positive("scale", scale)
        self.scale = scale
        self.similarity_fct = similarity_fct
        if tuple(directions) not in DIRECTIONS:
            raise ValueError(f"directions must be one of {DIRECTIONS}, got {directions!r}.")
        self.directions = tuple(directions)
        self.gather_across_devices = gather_across_devices
        self._watch = _InputWatch()

    @classmethod
    def paper(
        cls, model: SentenceTransformer, estimator: str | SimilarityEstimator = "bm25", **options: Any
    ) -> SoftInfoNCELoss:
        """Make the loss with the paper's scores: dot products at scale 1.

        Args:
            model: The model to train; its vectors should not be normalised.
            estimator: As for the class.
            **options: Further options of the class.

        Returns:
            The loss.
        """
        return cls(model, estimator, **{"similarity_fct": dot_score, "scale": 1.0, **options})

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """Compute the loss of one batch.

        Args:
            sentence_features: One dict of features a column: query, positive, and any number of negatives.
            labels: Without meaning here; ignored with one warning.

        Returns:
            Mean over the batch's queries, a scalar.

        Raises:
            ValueError: There are fewer than two columns, or the estimator breaks its contract.
        """
        features = list(sentence_features)
        self._watch.look(self.model, features, labels)
        # Before embedding: modules write into the features.
        representations = self._represent(features)
        return self._loss(_host.embed_columns(self.model, features), representations)

    def compute_loss_from_embeddings(
        self,
        embeddings: Sequence[Tensor],
        labels: Tensor | None = None,
        *,
        representations: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Compute the loss from the columns' embeddings.

        Args:
            embeddings: ``(B, D)`` for each column: query, positive, and any number of negatives.
            labels: Without meaning here.
            representations: The estimator's ``(B, ...)`` of the query column; for an estimator that compares
                documents, of every column. Not needed when ``alpha`` is 0.

        Returns:
            Mean over the batch's queries, a scalar.

        Raises:
            ValueError: There are fewer than two embeddings, or ``representations`` are missing.
        """
        if self.alpha != 0 and representations is None:
            raise ValueError(
                f"representations is None, but the weights of {self.estimator.name} (alpha={self.alpha}) come from "
                "the texts. Call the loss itself with the features, or set alpha=0 for plain InfoNCE."
            )
        return self._loss(list(embeddings), [] if representations is None else list(representations))

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings for the model card, as JSON primitives.

        Returns:
            Names and values.
        """
        return {
            "estimator": self.estimator.name,
            "estimator_options": self.estimator.get_config_dict(),
            "alpha": self.alpha,
            "beta": self.beta,
            "weight_temperature": self.weight_temperature,
            "min_weight": self.min_weight,
            "scale": self.scale,
            "similarity_fct": similarity_fct_name(self.similarity_fct),
            "directions": list(self.directions),
            "gather_across_devices": self.gather_across_devices,
        }

    @property
    def temperature(self) -> float:
        """The softmax temperature, ``1 / scale``."""
        return 1.0 / self.scale

    @property
    def citation(self) -> str:
        """The paper's BibTeX entry, for the model card."""
        return """
@inproceedings{li-etal-2023-rethinking,
    title = "Rethinking Negative Pairs in Code Search",
    author = "Li, Haochen and Zhou, Xin and Luu, Anh Tuan and Miao, Chunyan",
    booktitle = "Proceedings of the 2023 Conference on Empirical Methods in Natural Language Processing",
    month = dec,
    year = "2023",
    address = "Singapore",
    publisher = "Association for Computational Linguistics",
    url = "https://aclanthology.org/2023.emnlp-main.786",
    pages = "12760--12774",
}
"""

    def _represent(self, features: list[dict[str, Tensor]]) -> list[Tensor]:
        """Ask the estimator for the columns it compares: the queries, or all of them. None without weights."""
        if self.alpha == 0:
            return []
        compared = features if self.estimator.compares == "documents" else features[:1]
        return [
            checked_representation(self.estimator, TextColumn(column, _host.column_tokenizer(self.model, column)))
            for column in compared
        ]

    def _loss(self, embeddings: list[Tensor], representations: list[Tensor]) -> Tensor:
        batch = self._collect(embeddings, representations)
        return self._rows_loss(batch, batch.rows)

    def _collect(self, embeddings: list[Tensor], representations: list[Tensor]) -> _Batch:
        """Bring together the columns, of all devices if asked for, and the estimator bound to them."""
        if len(embeddings) < 2:
            raise ValueError(
                f"The loss needs at least 2 columns, query and positive, got {len(embeddings)}: add the missing text "
                "column to the dataset."
            )
        rows = torch.arange(embeddings[0].size(0), device=embeddings[0].device)
        padding = self.estimator.padding
        if self.gather_across_devices:
            embeddings = [all_gather_with_grad(column) for column in embeddings]
            representations = [_host.gather_padded(column, padding) for column in representations]
            rows = rows + get_rank() * rows.numel()
        compared = None
        if representations:
            candidates = join_representations(representations[1:] or representations, padding)
            compared = _Compared(self.estimator.for_batch(candidates), representations[0], candidates)
        return _Batch(embeddings[0], torch.cat(embeddings[1:]), rows, compared)

    def _rows_loss(self, batch: _Batch, rows: Tensor) -> Tensor:
        """Compute the mean loss of some of the batch's rows; nothing here is larger than (rows, candidates)."""
        scores = self.similarity_fct(batch.queries[rows], batch.documents) * self.scale  # (rows, M)
        weights = None
        if batch.compared is not None:
            weights = self._weights(batch.compared.similarity(rows), rows)
            explicit_negatives = scores.size(1) - weights.size(1)  # compared by no query of their own: weight 1
            weights = torch.cat([weights, weights.new_ones(len(rows), explicit_negatives)], dim=1)
        if "doc_to_query" in self.directions:
            # The positives are the first documents, so row i of the transposed block has its query in column i.
            transposed = self.similarity_fct(batch.queries, batch.documents[rows]).T * self.scale  # (rows, N)
            scores = torch.cat([scores, transposed], dim=1)
            if weights is not None and batch.compared is not None:
                weights = torch.cat([weights, self._weights(batch.compared.transposed(rows), rows)], dim=1)
        return soft_info_nce(scores, weights, positives=rows)

    def _weights(self, similarity: Tensor, rows: Tensor) -> Tensor:
        return negative_weights(
            similarity,
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.weight_temperature,
            min_weight=self.min_weight,
            positives=rows,
        )


@dataclass(frozen=True)
class _Compared:
    """What the estimator compares: N queries, and N or M candidates of which the positives come first."""

    estimator: SimilarityEstimator
    queries: Tensor
    candidates: Tensor

    def similarity(self, rows: Tensor) -> Tensor:
        """Compare some queries with every candidate: ``(rows, candidates)``."""
        return checked_similarity(self.estimator, self.queries[rows], self.candidates)

    def transposed(self, rows: Tensor) -> Tensor:
        """Compare the positives of some rows with every query: ``(rows, N)``."""
        return checked_similarity(self.estimator, self.queries, self.candidates[rows]).T


@dataclass(frozen=True)
class _Batch:
    """A batch of N queries and M documents, the positives first; ``rows`` are this device's among the N."""

    queries: Tensor
    documents: Tensor
    rows: Tensor
    compared: _Compared | None


class _InputWatch:
    """Warns, once each, of inputs that train all the same: a label column, and texts without a token."""

    # Counting is free on the CPU; elsewhere it waits for the device, so it is done now and then.
    _LOOK_EVERY = 100

    def __init__(self) -> None:
        self._batches = 0
        self._warned_of_labels = False
        self._warned_of_empty_texts = False

    def look(self, model: nn.Module, features: Sequence[dict[str, Tensor]], labels: Tensor | None) -> None:
        if labels is not None and not self._warned_of_labels:
            self._warned_of_labels = True
            warnings.warn(
                "The dataset has a label column, which this loss ignores: it learns from (query, positive) pairs. "
                "Remove the column, and the pairs that are not positive with it.",
                InputWarning,
                stacklevel=3,
            )
        self._batches += 1
        if self._warned_of_empty_texts or torch.compiler.is_compiling():
            return
        empty = {}
        for position, column_features in enumerate(features):
            ids = column_features.get("input_ids")
            if not isinstance(ids, Tensor) or (ids.device.type != "cpu" and self._batches % self._LOOK_EVERY != 1):
                continue
            column = TextColumn(column_features, _host.column_tokenizer(model, column_features))
            count = int((~column.content_mask.any(dim=1)).sum())
            if count:
                empty[position] = f"{count} of {len(column)} in column {position}"
        if empty:
            self._warned_of_empty_texts = True
            warnings.warn(
                f"A batch has empty texts: {', '.join(empty.values())} (column 0 is the query). They train like any "
                "other text; filter them out of the dataset if that is not meant. This is said once, for the first "
                "such batch.",
                InputWarning,
                stacklevel=3,
            )
