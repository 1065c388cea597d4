"""What do the weights do on my data: counts at my batch size, a temperature, and the relevance posterior."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from datasets import Dataset
from torch import Tensor, nn
from tqdm import tqdm

from st_softinfonce import _host
from st_softinfonce.estimators.base import (
    SimilarityEstimator,
    TextColumn,
    checked_representation,
    checked_similarity,
)
from st_softinfonce.estimators.registry import get_estimator
from st_softinfonce.functional import (
    RelevancePosterior,
    check_share,
    check_similarity,
    check_weighting,
    negative_weights,
    posterior_weights,
    temperature_for_share,
)

_RANDOM_PAIRS = 100_000
_MOST_PASSES = 10
_CHUNK = 256


@dataclass(frozen=True)
class WeightSummary:
    """What a weighting does to a query's negatives, as means over queries.

    Attributes:
        below_0_9: Negatives with a weight below 0.9.
        below_0_5: Negatives with a weight below 0.5.
        at_floor: Negatives at the smallest weight allowed.
        untouched_queries: Share of queries without a negative below 0.9.
        effective_negatives: ``(sum of weights)^2 / sum of squared weights``; equal weights keep all negatives.
    """

    below_0_9: float
    below_0_5: float
    at_floor: float
    untouched_queries: float
    effective_negatives: float

    @classmethod
    def of_negatives(cls, weights: Tensor, min_weight: float) -> WeightSummary:
        """Summarise the weights of negatives.

        Args:
            weights: ``(queries, negatives)``, without the positives.
            min_weight: The floor.

        Returns:
            The summary.
        """
        weights = weights.double()
        softened = weights < 0.9
        effective = weights.sum(1).square() / weights.square().sum(1)
        return cls(
            below_0_9=float(softened.sum(1).double().mean()),
            below_0_5=float((weights < 0.5).sum(1).double().mean()),
            at_floor=float((weights <= min_weight * (1 + 1e-6)).sum(1).double().mean()),
            untouched_queries=float((~softened.any(1)).double().mean()),
            effective_negatives=float(effective.mean()),
        )


@dataclass(frozen=True)
class CalibrationReport:
    """What an estimator's weights do on a dataset at a batch size; ``str()`` is a table.

    Attributes:
        estimator: The estimator's name.
        batch_size: Pairs a batch.
        batches: Batches looked at.
        alpha: Of the paper's weighting.
        beta: Of the paper's weighting.
        temperature: Of the paper's weighting: the one asked about, by default the estimator's.
        min_weight: Floor of a weight.
        paper: What the paper's weighting does at ``temperature``.
        softened_share: The share of negatives that was to be softened.
        suggested_temperature: The temperature that comes closest; ``None`` where none makes a difference.
        at_suggested_temperature: What the paper's weighting does there.
        posterior: The relevance posterior, for ``SoftInfoNCELoss(..., weighting="posterior", posterior=...)``;
            ``None`` if the estimator does not allow one.
        posterior_problem: Why there is none.
        at_posterior: What the weighting in absolute terms does.
    """

    estimator: str
    batch_size: int
    batches: int
    alpha: float
    beta: float
    temperature: float
    min_weight: float
    paper: WeightSummary
    softened_share: float
    suggested_temperature: float | None
    at_suggested_temperature: WeightSummary | None
    posterior: RelevancePosterior | None
    posterior_problem: str | None
    at_posterior: WeightSummary | None

    @property
    def advice(self) -> str:
        """One sentence on what to make of the numbers."""
        if self.at_posterior is None:
            return f"No posterior: {self.posterior_problem}"
        if self.paper.untouched_queries == 1.0:
            return "The paper's weighting softens nothing at this batch size: this is plain InfoNCE."
        relevant = self.at_posterior.below_0_9
        if self.paper.below_0_9 > 5 * relevant:
            return (
                f"The paper's weighting softens {self.paper.below_0_9:.3g} negatives of a query, of which about "
                f"{relevant:.2g} look relevant in absolute terms: weighting='posterior' softens those alone."
            )
        return "Both weightings soften about as many negatives: keep the paper's unless an evaluation says otherwise."

    def __str__(self) -> str:
        """Return the report as a table."""
        columns = [(f"paper, t={self.temperature:.4g}", self.paper)]
        if self.suggested_temperature is not None and self.at_suggested_temperature is not None:
            columns.append((f"paper, t={self.suggested_temperature:.4g}", self.at_suggested_temperature))
        if self.at_posterior is not None:
            columns.append(("posterior", self.at_posterior))
        rows = [
            ("negatives below 0.9", [f"{summary.below_0_9:.4g}" for _, summary in columns]),
            ("negatives below 0.5", [f"{summary.below_0_5:.4g}" for _, summary in columns]),
            (f"negatives at the floor ({self.min_weight:g})", [f"{summary.at_floor:.4g}" for _, summary in columns]),
            ("effective number of negatives", [f"{summary.effective_negatives:.4g}" for _, summary in columns]),
            ("queries with none below 0.9", [f"{summary.untouched_queries:.1%}" for _, summary in columns]),
        ]
        lines = [
            f"{self.estimator}: {self.batches} batches of {self.batch_size}, {self.batch_size - 1} negatives a query "
            f"(alpha={self.alpha:g}, beta={self.beta:g})",
            f"{'per query':34}" + "".join(f"{name:>20}" for name, _ in columns),
            *(f"{name:34}" + "".join(f"{value:>20}" for value in values) for name, values in rows),
        ]
        if self.at_suggested_temperature is not None:
            reached = self.at_suggested_temperature.below_0_9 / (self.batch_size - 1)
            lines.append(
                f"t={self.suggested_temperature:.4g} softens {reached:.1%} of the negatives "
                f"(asked: {self.softened_share:.1%})."
            )
        if self.posterior is not None:
            lines.append(f"A random pair is relevant with a probability of about {self.posterior.prior:.2g}.")
        return "\n".join([*lines, self.advice])


def calibrate(
    estimator: str | SimilarityEstimator,
    pairs: Dataset,
    batch_size: int,
    *,
    model: nn.Module | None = None,
    tokenizer: Any = None,
    batches: int | None = None,
    softened_share: float = 0.05,
    alpha: float | None = None,
    beta: float | None = None,
    weight_temperature: float | None = None,
    min_weight: float = 0.1,
    prior: float | None = None,
    seed: int = 0,
) -> CalibrationReport:
    """Report what an estimator's weights do on your data at your batch size, and fit its relevance posterior.

    Batches are drawn as in training, in random order. Known relevant pairs are each query with its own document; for
    an estimator that compares queries (or positives) each one with itself, which is what a same-documentation twin
    scores, and scores are then relative to it. Random pairs are all the others of a batch.

    Args:
        estimator: An installed estimator's name, or an estimator.
        pairs: The columns ``query`` and ``code``, or else the first two columns.
        batch_size: At least 2.
        model: The model to train: its tokenizer, maximum length and routes make the texts what they are in training.
        tokenizer: A tokenizer instead of a model; texts are then not truncated. Exactly one of both.
        batches: At least 1; by default as many as give 100,000 random pairs, of at most ten passes over the data.
        softened_share: In (0, 1]. The share of negatives with a weight below 0.9 that the suggested temperature is
            to reach (:func:`~st_softinfonce.functional.temperature_for_share`).
        alpha: Of the paper's weighting; ``None`` takes the estimator's. So for the next two.
        beta: Likewise.
        weight_temperature: Likewise.
        min_weight: In (0, 1]. Floor of a weight.
        prior: In (0, 1]. Probability that a random pair is relevant; by default estimated.
        seed: Of the order.

    Returns:
        The report.

    Raises:
        ValueError: An option is out of range, there are fewer pairs than a batch, or the estimator is unknown or
            breaks its contract.
    """
    teacher = get_estimator(estimator)
    weighting = teacher.weighting
    alpha = weighting.alpha if alpha is None else alpha
    beta = weighting.beta if beta is None else beta
    temperature = weighting.temperature if weight_temperature is None else weight_temperature
    check_weighting(alpha=alpha, beta=beta, temperature=temperature, min_weight=min_weight)
    check_share("softened_share", softened_share)
    if prior is not None:
        check_share("prior", prior)
    texts = PairTexts(pairs, model=model, tokenizer=tokenizer)
    check_count("batch_size", batch_size, 2)
    if batches is None:
        wanted = math.ceil(_RANDOM_PAIRS / max(1, batch_size * (batch_size - 1)))
        batches = min(wanted, max(1, _MOST_PASSES * (len(pairs) // max(1, batch_size))))
    blocks = batch_similarities(teacher, texts, batch_size, batches=batches, seed=seed)
    shown = tqdm(blocks, desc="Calibrating", total=batches, unit="batch", disable=None)
    similarity = torch.cat([block.cpu() for _, block in shown])  # (batches * batch_size, batch_size)
    positives = torch.arange(batch_size).repeat(batches)

    def paper(t: float) -> WeightSummary:
        weights = negative_weights(
            similarity, alpha=alpha, beta=beta, temperature=t, min_weight=min_weight, positives=positives
        )
        return WeightSummary.of_negatives(negatives_of(weights, positives), min_weight)

    suggested = temperature_for_share(similarity, alpha=alpha, beta=beta, share=softened_share, positives=positives)
    posterior, problem, at_posterior = None, None, None
    try:
        posterior = _fit_posterior(teacher, similarity, positives, prior)
    except ValueError as error:
        problem = str(error)
    if posterior is not None:
        weights = posterior_weights(similarity, posterior=posterior, min_weight=min_weight, positives=positives)
        at_posterior = WeightSummary.of_negatives(negatives_of(weights, positives), min_weight)
    return CalibrationReport(
        estimator=teacher.name,
        batch_size=batch_size,
        batches=batches,
        alpha=alpha,
        beta=beta,
        temperature=temperature,
        min_weight=min_weight,
        paper=paper(temperature),
        softened_share=softened_share,
        suggested_temperature=suggested,
        at_suggested_temperature=None if suggested is None else paper(suggested),
        posterior=posterior,
        posterior_problem=problem,
        at_posterior=at_posterior,
    )


class PairTexts:
    """The texts of a dataset of pairs, tokenized as in training.

    Args:
        pairs: The columns ``query`` and ``code``, or else the first two columns.
        model: The model to train.
        tokenizer: A tokenizer instead.

    Raises:
        ValueError: There are fewer than two columns, one holds something else than texts, or not exactly one of
            ``model`` and ``tokenizer`` is given.
    """

    def __init__(self, pairs: Dataset, *, model: nn.Module | None = None, tokenizer: Any = None) -> None:
        if not isinstance(pairs, Dataset):
            raise ValueError(f"pairs must be a datasets.Dataset, got {type(pairs).__name__}: choose one split.")
        if (model is None) == (tokenizer is None):
            raise ValueError(
                "Give exactly one of model and tokenizer, got "
                f"{'neither' if model is None else 'both'}: an estimator sees the texts as the model in training does."
            )
        names = pairs.column_names
        if len(names) < 2:
            raise ValueError(f"pairs must have two text columns, got {names}: add the missing one.")
        self.columns = ("query", "code") if {"query", "code"} <= set(names) else (names[0], names[1])
        plain = pairs.with_format(None)
        self.queries: list[str] = list(plain[self.columns[0]])
        self.documents: list[str] = list(plain[self.columns[1]])
        for name, texts in zip(self.columns, (self.queries, self.documents), strict=True):
            for row, text in enumerate(texts):
                if not isinstance(text, str):
                    raise ValueError(
                        f"pairs must hold texts, got a {type(text).__name__} in the column {name!r}, row {row}. "
                        "Filter such rows out, or select the two columns of texts."
                    )
        self.model = model
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.queries)

    def column(self, rows: list[int], role: Literal["query", "document"]) -> TextColumn:
        """Make the column of a batch.

        Args:
            rows: The pairs of the batch.
            role: Their queries, or their documents.

        Returns:
            The column, on the model's device.
        """
        source = self.queries if role == "query" else self.documents
        texts = [source[row] for row in rows]
        if self.model is None:
            return TextColumn.from_texts(texts, self.tokenizer, role=role)
        model: Any = self.model
        routes = {"task": role} if hasattr(model[0], "sub_modules") else {}
        features = {
            name: value.to(model.device) if isinstance(value, Tensor) else value
            for name, value in model.preprocess(texts, **routes).items()
        }
        return TextColumn(features, _host.column_tokenizer(model, features | routes), role=role)


def check_count(name: str, value: object, least: int) -> None:
    """Refuse a value that is no integer of at least so many.

    Args:
        name: The argument's name, for the message.
        value: Its value.
        least: The smallest that is allowed.

    Raises:
        ValueError: Naming the argument and its value.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")


def batch_similarities(
    estimator: SimilarityEstimator, texts: PairTexts, batch_size: int, *, batches: int, seed: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Go through pairs in batches of random order, as training does, without a model's forward pass.

    Args:
        estimator: Compares them.
        texts: The pairs.
        batch_size: At least 2.
        batches: At least 1; beyond the data's end a new order begins.
        seed: Of the order.

    Yields:
        The rows of a batch, and their similarities ``(batch_size, batch_size)``.

    Raises:
        ValueError: A number is out of range.
    """
    check_count("batch_size", batch_size, 2)
    check_count("batches", batches, 1)
    if len(texts) < batch_size:
        remedy = "give a smaller batch_size" if len(texts) > 1 else "there is nothing to compare"
        raise ValueError(f"pairs must fill a batch of {batch_size}, got {len(texts)}: {remedy}.")
    generator = torch.Generator().manual_seed(seed)
    in_a_pass = len(texts) // batch_size
    order: list[int] = []
    by_role: dict[str, tuple[Literal["query", "document"], ...]] = {
        "queries": ("query",),
        "positives": ("document",),
        "documents": ("query", "document"),
    }
    roles = by_role[estimator.compares]
    for number in range(batches):
        if number % in_a_pass == 0:
            order = torch.randperm(len(texts), generator=generator).tolist()
        start = (number % in_a_pass) * batch_size
        rows = order[start : start + batch_size]
        parts = [checked_representation(estimator, texts.column(rows, role)) for role in roles]
        bound = estimator.for_batch(parts[-1])
        # A few queries at a time: an estimator's intermediate results can be much larger than the similarities.
        chunks = torch.split(parts[0], _CHUNK)
        similarity = torch.cat([checked_similarity(bound, chunk, parts[-1]) for chunk in chunks])
        own = torch.arange(batch_size, device=similarity.device)
        check_similarity(f"similarity of the estimator {estimator.name!r}", similarity, own, anywhere=True)
        yield rows, similarity


def negatives_of(matrix: Tensor, positives: Tensor) -> Tensor:
    """Drop each row's positive.

    Args:
        matrix: ``(N, M)``.
        positives: ``(N,)`` columns.

    Returns:
        ``(N, M - 1)``, the columns in order.
    """
    columns = torch.arange(matrix.size(1) - 1)
    return matrix.gather(1, columns + (columns >= positives.unsqueeze(1)))


def _fit_posterior(
    estimator: SimilarityEstimator, similarity: Tensor, positives: Tensor, prior: float | None
) -> RelevancePosterior:
    relative = estimator.compares != "documents"
    if relative:
        own = similarity.gather(1, positives.unsqueeze(1))
        usable = (own > 0).squeeze(1)  # a text without content is not even similar to itself
        if not bool(usable.any()):
            raise ValueError(
                "no text is similar to itself (above 0), which scores are made relative to: all are empty, or the "
                "statistics of so small a batch say nothing. Give a larger batch_size, or statistics of a corpus."
            )
        similarity, positives = similarity[usable] / own[usable], positives[usable]
    known = similarity.gather(1, positives.unsqueeze(1))
    return RelevancePosterior.fit(known, negatives_of(similarity, positives), prior, relative=relative)
