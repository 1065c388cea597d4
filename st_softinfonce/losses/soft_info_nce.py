"""Soft-InfoNCE, at once or with cached gradients."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from sentence_transformers.util import cos_sim, dot_score, get_world_size
from torch import Tensor, nn
from typing_extensions import Self

from st_softinfonce.estimators.base import SimilarityEstimator
from st_softinfonce.estimators.known_queries import KnownQueries
from st_softinfonce.functional import (
    RelevancePosterior,
    check_not_negative,
    check_positive,
    check_weighting,
    negative_weights,
    posterior_weights,
    soft_info_nce,
    temperature_for_share,
)
from st_softinfonce.losses.cached import GradientCachedMixin
from st_softinfonce.losses.in_batch import Batch, Compared, InBatchLoss, InputWarning

logger = logging.getLogger(__name__)

Direction = Literal["query_to_doc", "doc_to_query"]
PartitionMode = Literal["joint", "per_direction"]
DIRECTIONS: tuple[tuple[Direction, ...], ...] = (("query_to_doc",), ("query_to_doc", "doc_to_query"))
Weighting = Literal["paper", "posterior"]
WEIGHTINGS: tuple[Weighting, ...] = ("paper", "posterior")
# What weight_temperature="auto" softens (a weight below 0.9), and how many queries of the first batch it looks at.
AUTO_SHARE = 0.05
AUTO_ROWS = 256
PARTITION_MODES: tuple[PartitionMode, ...] = ("joint", "per_direction")
HardnessMode = Literal["in_batch_negatives", "hard_negatives", "all_negatives"]
HARDNESS_MODES: tuple[HardnessMode | None, ...] = (None, "in_batch_negatives", "hard_negatives", "all_negatives")


class SoftInfoNCELoss(InBatchLoss):
    """InfoNCE whose in-batch negatives are weighted by how unlikely they are to be relevant.

    For a batch of (query, positive) pairs or (query, positive, negative_1, ..., negative_n) tuples (Li et al. 2023,
    Eq. 3), with ``s = scale * similarity_fct(query, document)``::

        -mean_i log( exp(s[i, i]) / (exp(s[i, i]) + sum_{j != i} w[i, j] exp(s[i, j])) )

    The weights ``w`` come from an estimator's similarities: ``functional.negative_weights`` (relative to the batch,
    Eq. 4) or ``functional.posterior_weights`` (absolute). ``alpha=0`` is ``MultipleNegativesRankingLoss``. Explicit
    negatives are candidates of every query; an estimator that compares queries leaves them at weight 1.

    Args:
        model: The model to train, a ``SentenceTransformer``.
        estimator: An installed estimator's name (``list_estimators()``), or an instance with its own options.
        alpha: At least 0. Strength of the weighting; ``None`` takes the estimator's.
        beta: Above 0; ``None`` takes the estimator's.
        weight_temperature: Above 0, in units of the estimator's similarity; ``None`` takes the estimator's. ``"auto"``
            takes and keeps what leaves 5% of the first batch's negatives below 0.9; also when resuming (see README).
        min_weight: In (0, 1], or 0 with ``"posterior"``. Floor of a negative's weight.
        weighting: ``"paper"`` (Eq. 4), or ``"posterior"``, which alpha, beta and weight_temperature do not affect.
        posterior: For ``"posterior"``: what ``calibrate`` fits; ``None`` takes the estimator's attribute of that name.
        scale: Above 0. Multiplies the model's similarity; the inverse of the softmax temperature.
        similarity_fct: ``(queries (B, D), documents (C, D)) -> (B, C)``.
        directions: With ``"doc_to_query"`` each positive also has to find its query among the batch's. Its weights
            are the transposed similarity: an approximation for BM25 between queries, which is not symmetric.
        partition_mode: Whether two directions share one softmax, or have one each and are averaged.
        gather_across_devices: Take the documents of all devices as candidates.
        known_queries: The queries of mined hard negatives, which an estimator that compares queries then weighs too.
        hardness_mode: As the host's: which negatives are pushed harder the more similar the model finds them,
            ``"in_batch_negatives"`` (Lan et al. 2025, Eq. 5), ``"hard_negatives"`` (the query's explicit ones), or
            ``"all_negatives"``. What is hard may be relevant after all: the weights say how likely not.
        hardness_strength: At least 0. ``hardness_strength * similarity_fct`` is added to their scores, a constant to
            the gradient. The papers' 5 and 9 are for cosines at a scale of about 20; what it does is its ratio to
            ``scale``, so that dot products at scale 1 (:meth:`paper`) need much less.

    Raises:
        ValueError: An option is out of range, the estimator is unknown or breaks its contract or returns nan, or the
            dataset has fewer than two columns.

    Example:
        >>> from sentence_transformers import SentenceTransformer
        >>> from sentence_transformers.sentence_transformer.modules import StaticEmbedding
        >>> from tokenizers import Tokenizer, models
        >>> words = StaticEmbedding(Tokenizer(models.WordLevel({"sort": 0, "list": 1})), embedding_dim=4)
        >>> loss = SoftInfoNCELoss(SentenceTransformer(modules=[words]), estimator="bm25")
        >>> loss.alpha, loss.beta, loss.weight_temperature
        (1.5, 0.5, 1.0)
    """

    def __init__(
        self,
        model: nn.Module,
        estimator: str | SimilarityEstimator = "bm25",
        *,
        alpha: float | None = None,
        beta: float | None = None,
        weight_temperature: float | Literal["auto"] | None = None,
        min_weight: float = 0.1,
        weighting: Weighting = "paper",
        posterior: RelevancePosterior | None = None,
        scale: float = 20.0,
        similarity_fct: Callable[..., Tensor] = cos_sim,
        directions: Sequence[Direction] = ("query_to_doc",),
        partition_mode: PartitionMode = "joint",
        gather_across_devices: bool = False,
        known_queries: KnownQueries | None = None,
        hardness_mode: HardnessMode | None = None,
        hardness_strength: float = 0.0,
    ) -> None:
        super().__init__(
            model,
            estimator,
            scale=scale,
            similarity_fct=similarity_fct,
            gather_across_devices=gather_across_devices,
            known_queries=known_queries,
        )
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be one of {WEIGHTINGS}, got {weighting!r}.")
        defaults = self.estimator.weighting
        self.alpha = defaults.alpha if alpha is None else alpha
        self.beta = defaults.beta if beta is None else beta
        self.weight_temperature = defaults.temperature if weight_temperature is None else weight_temperature
        # In absolute terms a weight of 0 is sound: the candidate is surely relevant.
        floor = 1.0 if weighting == "posterior" and min_weight == 0 else min_weight
        check_weighting(alpha=self.alpha, beta=self.beta, temperature=1.0, min_weight=floor)
        # NumPy's numbers are welcome, but no JSON.
        self.alpha, self.beta, self.min_weight = float(self.alpha), float(self.beta), float(min_weight)
        self._auto_temperature = self.weight_temperature == "auto"
        if not self._auto_temperature:
            check_positive("weight_temperature", self.weight_temperature)
            self.weight_temperature = float(self.weight_temperature)
        self.weighting = weighting
        self.posterior = _posterior_for(weighting, posterior, self.estimator)
        given = {"alpha": alpha, "beta": beta, "weight_temperature": weight_temperature}
        without_effect = [name for name, value in given.items() if value is not None]
        if alpha == 0 and weighting == "paper" and set(without_effect) - {"alpha"}:
            warnings.warn(
                f"{', '.join(without_effect[1:])} have no effect with alpha=0, plain InfoNCE. Leave them out.",
                stacklevel=2,
            )
        if weighting == "posterior" and without_effect:
            warnings.warn(
                f"{', '.join(without_effect)} have no effect with weighting='posterior', whose weights are "
                "1 - P(relevant | similarity). Leave them out, or use weighting='paper'.",
                stacklevel=2,
            )
        if tuple(directions) not in DIRECTIONS:
            raise ValueError(f"directions must be one of {DIRECTIONS}, got {directions!r}.")
        if partition_mode not in PARTITION_MODES:
            raise ValueError(f"partition_mode must be one of {PARTITION_MODES}, got {partition_mode!r}.")
        self.directions = tuple(directions)
        self.partition_mode = partition_mode
        if hardness_mode not in HARDNESS_MODES:
            raise ValueError(f"hardness_mode must be one of {HARDNESS_MODES}, got {hardness_mode!r}.")
        check_not_negative("hardness_strength", hardness_strength)
        if (hardness_mode is None) != (hardness_strength == 0):
            name, missing = ("hardness_mode", "hardness_strength above 0")
            if hardness_mode is None:
                name, missing = "hardness_strength", "hardness_mode"
            warnings.warn(f"{name} has no effect without a {missing}. Set both, or neither.", stacklevel=2)
        self.hardness_mode = hardness_mode
        self.hardness_strength = float(hardness_strength)
        self._warned_of_no_negatives = False
        # Sees each block of weights (rows, M) and its positives' columns; WeightStatisticsCallback sets it.
        self.observer: Callable[[Tensor, Tensor], None] | None = None
        if partition_mode != "joint" and len(self.directions) == 1:
            warnings.warn(
                f"partition_mode={partition_mode!r} has no effect in one direction. Add 'doc_to_query' to directions.",
                stacklevel=2,
            )

    @classmethod
    def paper(cls, model: nn.Module, estimator: str | SimilarityEstimator = "bm25", **options: Any) -> Self:
        """Make the loss with the paper's scores: dot products at scale 1.

        Args:
            model: The model to train; its vectors should not be normalised.
            estimator: As for the class.
            **options: Further options of the class.

        Returns:
            The loss.
        """
        return cls(model, estimator, **{"similarity_fct": dot_score, "scale": 1.0, **options})

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings for the model card, as JSON primitives.

        Returns:
            Names and values.
        """
        weighting: dict[str, Any] = {
            "alpha": self.alpha,
            "beta": self.beta,
            "weight_temperature": self.weight_temperature,
        }
        if self.posterior is not None:
            weighting = {
                "posterior": {
                    "prior": self.posterior.prior,
                    "relative": self.posterior.relative,
                    "known_pairs": self.posterior.known_pairs,
                    "random_pairs": self.posterior.random_pairs,
                }
            }
        elif self._auto_temperature:
            weighting["weight_temperature_from"] = f"first batch, {AUTO_SHARE:.0%} of its negatives below 0.9"
        return super().get_config_dict() | {
            "weighting": self.weighting,
            **weighting,
            "min_weight": self.min_weight,
            "directions": list(self.directions),
            "partition_mode": self.partition_mode,
            "hardness_mode": self.hardness_mode,
            "hardness_strength": self.hardness_strength,
        }

    def _needs_estimator(self) -> bool:
        return self.weighting == "posterior" or self.alpha != 0

    def _compare(self, representations: object) -> Compared | None:
        compared = super()._compare(representations)
        # Here, not where the weights are made: a cached loss has only some of the rows there.
        if compared is not None and self.weighting == "paper" and self.weight_temperature == "auto":
            self._set_temperature(compared)
        return compared

    def _set_temperature(self, compared: Compared) -> None:
        """Choose the temperature from this batch, unless nothing in it can be told apart."""
        rows = torch.arange(min(len(compared.queries), AUTO_ROWS), device=compared.queries.device)
        similarity = compared.similarity(rows)
        similarity = similarity if compared.known is None else similarity[:, compared.known]
        temperature = temperature_for_share(
            similarity, alpha=self.alpha, beta=self.beta, share=AUTO_SHARE, positives=rows
        )
        chosen = torch.tensor(temperature or 0.0, dtype=torch.float32, device=rows.device)
        if get_world_size() > 1:
            dist.broadcast(chosen, src=0)  # one temperature for all devices, whose batches differ
        if chosen > 0:
            self.weight_temperature = float(chosen)
            self._update_card()
            logger.info("weight_temperature='auto' is %.4g from here on.", self.weight_temperature)

    def _rows_loss(self, batch: Batch, rows: Tensor) -> Tensor:
        scores = self._harder(self._scores(batch, rows), batch, rows)  # (rows, M)
        weights = transposed_weights = None
        if batch.compared is not None:
            weights = self._weights(batch.compared.similarity(rows), rows, batch.compared.known)
            # Explicit negatives that no query of their own is known of have weight 1.
            weights = self._observed(batch.compared.spread(weights, scores.size(1), 1.0), rows)
        if "doc_to_query" not in self.directions:
            return soft_info_nce(scores, weights, positives=rows)

        # The positives are the first documents, so row i of the transposed block has its query in column i.
        transposed = self._transposed_scores(batch, rows)  # (rows, N)
        if batch.compared is not None:
            transposed_weights = self._observed(self._weights(batch.compared.transposed(rows), rows), rows)
        if self.partition_mode == "per_direction":
            one_way = soft_info_nce(scores, weights, positives=rows)
            return (one_way + soft_info_nce(transposed, transposed_weights, positives=rows)) / 2
        if weights is not None and transposed_weights is not None:
            weights = torch.cat([weights, transposed_weights], dim=1)
        return soft_info_nce(torch.cat([scores, transposed], dim=1), weights, positives=rows)

    def _harder(self, scores: Tensor, batch: Batch, rows: Tensor) -> Tensor:
        """Raise the scores of negatives by what the model finds them similar, without a gradient of its own."""
        if self.hardness_mode is None or self.hardness_strength == 0:
            return scores
        if self.hardness_mode == "hard_negatives" and scores.size(1) == batch.queries.size(0):
            if not self._warned_of_no_negatives:
                self._warned_of_no_negatives = True
                warnings.warn(
                    "hardness_mode='hard_negatives' has no effect on pairs: the dataset has no columns of explicit "
                    "negatives. Add some, or take 'in_batch_negatives'. This is said once.",
                    InputWarning,
                    stacklevel=2,
                )
            return scores
        # Columns are blocks of all queries' positives, then of all queries' first negatives, and so on.
        columns = torch.arange(scores.size(1), device=scores.device)
        own = columns % batch.queries.size(0) == rows.unsqueeze(1)  # (rows, M): the query's positive and negatives
        positive = columns == rows.unsqueeze(1)
        chosen = {"in_batch_negatives": ~own, "hard_negatives": own & ~positive, "all_negatives": ~positive}
        penalty = (self.hardness_strength / self.scale) * scores.detach()
        return scores + penalty.masked_fill(~chosen[self.hardness_mode], 0.0)

    def _observed(self, weights: Tensor, positives: Tensor) -> Tensor:
        if self.observer is not None:
            self.observer(weights, positives)
        return weights

    def _weights(self, similarity: Tensor, rows: Tensor, known: Tensor | None = None) -> Tensor:
        if self.posterior is not None:
            return posterior_weights(similarity, posterior=self.posterior, min_weight=self.min_weight, positives=rows)
        temperature = self.weight_temperature
        return negative_weights(
            similarity,
            alpha=self.alpha,
            beta=self.beta,
            # Still "auto" while no batch could tell: too small, or all alike, where every temperature means weight 1.
            temperature=self.estimator.weighting.temperature if isinstance(temperature, str) else temperature,
            min_weight=self.min_weight,
            positives=rows,
            known=known,
        )


def _posterior_for(
    weighting: Weighting, posterior: RelevancePosterior | None, estimator: SimilarityEstimator
) -> RelevancePosterior | None:
    """The posterior to use: none for the paper's weighting."""
    if weighting == "paper":
        if posterior is not None:
            warnings.warn("posterior has no effect with weighting='paper': set weighting='posterior'.", stacklevel=3)
        return None
    found = getattr(estimator, "posterior", None) if posterior is None else posterior
    if not isinstance(found, RelevancePosterior):
        raise ValueError(
            f"posterior must be a RelevancePosterior for weighting='posterior', got {type(found).__name__}: "
            f"st_softinfonce.calibration.calibrate({estimator.name!r}, pairs, batch_size, model=model).posterior "
            "makes one from your data."
        )
    return found


class CachedSoftInfoNCELoss(GradientCachedMixin, SoftInfoNCELoss):
    """:class:`SoftInfoNCELoss` with cached gradients, for batches larger than the memory allows.

    The same loss and gradients for the memory of ``mini_batch_size`` texts, at the price of embedding every text
    twice (GradCache, Gao et al. 2021). Scores and weights are made ``mini_batch_size`` rows at a time.

    Args:
        model: The model to train; not one of StaticEmbedding, which has no mini-batches.
        estimator: As for :class:`SoftInfoNCELoss`.
        mini_batch_size: At least 1. Texts embedded, and rows scored, at a time.
        mini_batch_num_tokens: At least 1, in tokens; embed as many texts at a time as stay below it, instead of
            ``mini_batch_size``. Rows are scored ``mini_batch_size`` at a time all the same.
        show_progress_bar: Show the progress within each batch.
        **options: The other options of :class:`SoftInfoNCELoss`.

    Raises:
        ValueError: As :class:`SoftInfoNCELoss`, or the model embeds with a StaticEmbedding.
    """

    def __init__(
        self,
        model: nn.Module,
        estimator: str | SimilarityEstimator = "bm25",
        *,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        show_progress_bar: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(model, estimator, **options)
        self._set_mini_batches(mini_batch_size, mini_batch_num_tokens, show_progress_bar)
