"""The loss of a row: the one place that turns a plan's estimator, treatment and options into objects of the package.

A row of a plan is ``loss`` (a class of sentence-transformers or of st_softinfonce), ``estimator`` and ``treatment``
(a name, or a table with a name and options) and ``options`` of the loss. Nothing else in ``evaluation`` knows which
classes and arguments these names stand for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from filelock import FileLock
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses as host_losses
from sentence_transformers.util import cos_sim
from torch import Tensor, nn

from evaluation.runs.base_models import is_static
from evaluation.runs.oracle import KnownRelevance
from evaluation.runs.plan import TEACHERS, name_and_options
from evaluation.runs.teachers import Teachers, digest
from st_softinfonce import get_estimator
from st_softinfonce import losses as own_losses
from st_softinfonce.calibration import calibrate
from st_softinfonce.estimators import KnownQueries, MixtureEstimator, SimilarityEstimator
from st_softinfonce.functional import RelevancePosterior, negative_weights, posterior_weights

SOFT = "SoftInfoNCELoss"
ORACLE = "oracle"
# How a treatment's options are called by the loss.
_SOFTEN = {"alpha": "alpha", "beta": "beta", "temperature": "weight_temperature", "min_weight": "min_weight"}
_MOST_GUIDED_NEGATIVES = 1
_MIN_WEIGHT = 0.1


class NotApplicable(Exception):
    """A row has no meaning with this model, language or regime; the message says why."""


def make_loss(
    model: SentenceTransformer, pairs: Dataset, settings: Mapping[str, Any], teachers: Teachers
) -> nn.Module:
    """Make the loss that a run trains with.

    Args:
        model: The model to train.
        pairs: The training pairs, with their mined negatives.
        settings: Of the run.
        teachers: Make what the estimator needs.

    Returns:
        The loss.

    Raises:
        NotApplicable: The row has no meaning here.
    """
    row, regime = settings["row"], settings["regime"]
    name, options = row["loss"], dict(row.get("options", {}))
    if name == "GISTEmbedLoss":
        if regime.get("negatives", 0) > _MOST_GUIDED_NEGATIVES:
            raise NotApplicable(f"{name} takes at most {_MOST_GUIDED_NEGATIVES} hard negative a query.")
        guide = teachers.load(row["estimator"], settings).eval().requires_grad_(False)
        kind = _choose_class({name: GuidedLoss, f"Cached{name}": host_losses.CachedGISTEmbedLoss}, name, model, regime)
        return kind(model, guide, temperature=1 / settings["scale"], **options)
    options["scale"] = settings["scale"]
    if hasattr(host_losses, name):
        return _choose_class(vars(host_losses), name, model, regime)(model, **options)
    estimator = make_estimator(row["estimator"], model, pairs, settings, teachers)
    treatment, chosen = name_and_options(row.get("treatment", "none"))
    if treatment == "mask":
        name = "CancelledInfoNCELoss"
        options |= chosen
    elif treatment == "discount":
        posterior = _posterior(estimator, pairs, regime["batch_size"], model)
        options |= chosen | {"weighting": "posterior", "posterior": posterior}
    elif treatment == "soften":
        options |= {_SOFTEN[option]: value for option, value in chosen.items()}
    if regime.get("negatives") and estimator.compares == "queries":
        options["known_queries"] = KnownQueries(dict(zip(pairs["code"], pairs["query"], strict=True)), model)
    return _choose_class(vars(own_losses), name, model, regime)(model, estimator, **options)


def make_estimator(
    estimator: str | Mapping[str, Any],
    model: SentenceTransformer,
    pairs: Dataset,
    settings: Mapping[str, Any],
    teachers: Teachers,
) -> SimilarityEstimator:
    """Make an estimator, with its teacher's vectors of the training texts at hand.

    Args:
        estimator: As a row has it.
        model: The model to train.
        pairs: The training pairs.
        settings: Of the run.
        teachers: Make what it needs.

    Returns:
        The estimator.
    """
    name, options = name_and_options(estimator)
    if name == ORACLE:
        return KnownRelevance(pairs, model)
    if name == "mixture":
        parts = [make_estimator(part, model, pairs, settings, teachers) for part in options.pop("parts")]
        return MixtureEstimator(parts, **options)
    if name not in TEACHERS:
        return get_estimator(name, **options)
    folder = teachers.folder(name, settings)
    # One table a tokenizer and length: the key of a text is its ids as the model in training reads them.
    table = folder.with_name(f"{folder.name}-table-{digest(settings['model'])}")
    with FileLock(f"{table}.lock"):
        made = get_estimator(name, model=folder, table=table, device=str(model.device), **options)
        made.precompute(pairs.select_columns(["query", "code"]), model, show_progress=False)
    return made


def weighing(
    estimator: SimilarityEstimator, row: Mapping[str, Any], pairs: Dataset, batch_size: int, model: SentenceTransformer
) -> tuple[Callable[[Tensor], Tensor], dict[str, float]]:
    """Return how a Soft-InfoNCE row makes weights of its estimator's similarities, outside training.

    Args:
        estimator: The row's.
        row: The row.
        pairs: The training pairs.
        batch_size: Pairs a batch.
        model: The model in training.

    Returns:
        A function of the similarities ``(N, N)``, positives on the diagonal, to weights ``(N, N)``; and its options.

    Raises:
        NotApplicable: There is no posterior, or the temperature is chosen during training.
    """
    treatment, chosen = name_and_options(row["treatment"])
    options: dict[str, Any] = {"min_weight": _MIN_WEIGHT} | chosen
    positives = torch.arange(batch_size)
    if treatment == "discount":
        posterior = _posterior(estimator, pairs, batch_size, model)
        weigh = partial(posterior_weights, posterior=posterior, positives=positives, **options)
        return weigh, options | {"prior": posterior.prior}
    defaults = estimator.weighting
    options = {"alpha": defaults.alpha, "beta": defaults.beta, "temperature": defaults.temperature} | options
    if options["temperature"] == "auto":
        raise NotApplicable("its temperature is chosen during training")
    return partial(negative_weights, positives=positives, **options), options


def kind_of(row: Mapping[str, Any]) -> str | None:
    """Name what a row does with its estimator: its treatment, ``"oracle"``, or ``None`` for losses of others."""
    if row.get("loss") != SOFT:
        return None
    if name_and_options(row["estimator"])[0] == ORACLE:
        return ORACLE
    return name_and_options(row["treatment"])[0]


def _posterior(
    estimator: SimilarityEstimator, pairs: Dataset, batch_size: int, model: SentenceTransformer
) -> RelevancePosterior:
    texts = pairs.select_columns(["query", "code"])
    report = calibrate(estimator, texts, min(batch_size, len(texts)), model=model)
    if report.posterior is None:
        raise NotApplicable(f"no posterior: {report.posterior_problem}")
    return report.posterior


def _choose_class(
    classes: Mapping[str, Any], name: str, model: SentenceTransformer, regime: Mapping[str, Any]
) -> Callable[..., nn.Module]:
    """Return a loss's class, or its version with cached gradients where the regime and the model need it."""
    if not regime.get("cached") or is_static(model):
        found: Callable[..., nn.Module] = classes[name]
        return found
    if f"Cached{name}" not in classes:
        raise NotApplicable(f"{name} has no version with cached gradients, which this batch size needs.")
    return partial(classes[f"Cached{name}"], mini_batch_size=regime.get("mini_batch_size", 32))


class GuidedLoss(host_losses.GISTEmbedLoss):
    """The host's GISTEmbedLoss, also for models and guides of static embeddings.

    The host asks for a tokenizer of transformers, to retokenize for another guide. A guide of the same static
    vocabulary needs none: it reads the very same ids.
    """

    def __init__(self, model: SentenceTransformer, guide: SentenceTransformer, **options: Any) -> None:
        if not is_static(model):
            super().__init__(model, guide, **options)
            return
        if not is_static(guide) or model.tokenizer.get_vocab() != guide.tokenizer.get_vocab():
            raise NotApplicable("GISTEmbedLoss cannot guide a StaticEmbedding by a model of another vocabulary.")
        nn.Module.__init__(self)
        parameters = inspect.signature(host_losses.GISTEmbedLoss).parameters.values()
        defaults = {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty}
        for name, value in (defaults | options).items():
            setattr(self, name, value)
        self.model, self.guide = model, guide
        self.must_retokenize = False
        self.similarity_fct = nn.CosineSimilarity(dim=-1)
        self.cross_entropy_loss = nn.CrossEntropyLoss()

    def sim_matrix(self, embed1: Tensor, embed2: Tensor) -> Tensor:
        """Compare all with all, as the host does, without its ``(n, m, D)`` tensor: ``(n, m)`` cosines."""
        return cos_sim(embed1, embed2)
