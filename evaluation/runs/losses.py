"""The loss of a row: the one place that turns a plan's estimator, treatment and options into objects of the package.

A row of a plan is ``loss`` (a class of sentence-transformers, st_softinfonce or ``baselines``), ``estimator`` and
``treatment`` (a name, or a table with a name and options; several treatments as a list) and ``options`` of the loss.
Nothing else in ``evaluation`` knows which classes and arguments these names stand for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from filelock import FileLock
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses as host_losses
from sentence_transformers.util import cos_sim, pairwise_dot_score
from torch import Tensor, nn

from evaluation.runs import baselines
from evaluation.runs.base_models import is_static
from evaluation.runs.oracle import KNOWN, known_relevance
from evaluation.runs.plan import TEACHERS, name_and_options, teacher_of, treatments_of
from evaluation.runs.teachers import Teachers, digest
from st_softinfonce import (
    Discount,
    Distill,
    KnownQueries,
    Mask,
    MixtureEstimator,
    Promote,
    RelevancePosterior,
    SimilarityEstimator,
    Soften,
    Treatment,
    calibrate,
    get_estimator,
    losses as own_losses,
)

ORACLE = "oracle"
TREATMENTS: dict[str, type[Treatment]] = {
    treatment.__name__.lower(): treatment for treatment in (Soften, Discount, Mask, Promote, Distill)
}
_CLASSES = {**vars(host_losses), **vars(baselines), **vars(own_losses)}
# Losses of the host that learn a teacher's scores of each row's own documents, from the column "label".
SCORED = ("DistillKLDivLoss", "MarginMSELoss")
_MOST_GUIDED_NEGATIVES = 1


class NotApplicable(Exception):
    """A row has no meaning with this model, language or regime; the message says why."""


def make_loss(
    model: SentenceTransformer, pairs: Dataset, settings: Mapping[str, Any], teachers: Teachers
) -> nn.Module:
    """Make the loss that a run trains with, on its training pairs and their mined negatives.

    Raises:
        NotApplicable: The row has no meaning with this model and regime.
    """
    row, regime = settings["row"], settings["regime"]
    name, options = row["loss"], dict(row.get("options", {}))
    if name == "GISTEmbedLoss":
        if regime.get("negatives", 0) > _MOST_GUIDED_NEGATIVES:
            raise NotApplicable(f"{name} takes at most {_MOST_GUIDED_NEGATIVES} hard negative a query.")
        guide = teachers.load(teacher_of(row["estimator"]), settings).eval().requires_grad_(False)
        kind = GuidedLoss if is_static(model) else _choose_class(name, model, regime)
        return kind(model, guide, temperature=1 / settings["scale"], **options)
    make = _choose_class(name, model, regime)
    if name in SCORED:
        return make(model, **options)
    options["scale"] = settings["scale"]
    if "estimator" not in row:
        return make(model, **options)
    estimator = make_estimator(row["estimator"], model, pairs, settings, teachers)
    if "treatment" in row:
        options["treatment"] = make_treatments(row["treatment"], estimator, pairs, regime["batch_size"], model)
    if regime.get("negatives") and estimator.compares == "queries":
        options["known_queries"] = KnownQueries(dict(zip(pairs["code"], pairs["query"], strict=True)), model)
    return make(model, estimator, **options)


def labels_of(pairs: Dataset, settings: Mapping[str, Any], teachers: Teachers) -> list[list[float]] | None:
    """Make the labels that a row's loss reads: a teacher's cosines of each query with its own documents.

    Returns:
        A list a pair, its positive's first; ``None`` for a loss without labels.

    Raises:
        NotApplicable: The pairs have no mined negatives.
    """
    row = settings["row"]
    if row["loss"] not in SCORED:
        return None
    negatives = sorted(name for name in pairs.column_names if name.startswith("negative"))
    if not negatives:
        raise NotApplicable(f"{row['loss']} needs mined negatives.")
    teacher = teachers.load(teacher_of(row["estimator"]), settings)
    queries, *documents = (
        teacher.encode(pairs[name][:], convert_to_tensor=True, normalize_embeddings=True)
        for name in ("query", "code", *negatives)
    )
    scores = torch.stack([pairwise_dot_score(queries, column) for column in documents], dim=1)
    labels: list[list[float]] = scores.tolist()
    return labels


def make_treatments(
    given: Any, estimator: SimilarityEstimator, pairs: Dataset, batch_size: int, model: SentenceTransformer
) -> list[Treatment]:
    """Make the treatments of a row, at least one.

    ``"soften"`` begins with the estimator's own softening. ``"discount"``, and ``"promote"`` with ``posterior = true``
    have a posterior that is fitted to the training pairs.

    Raises:
        NotApplicable: There is no posterior.
    """
    made: list[Treatment] = []
    for name, options in map(name_and_options, treatments_of(given)):
        if name == "discount" or options.get("posterior"):
            options["posterior"] = _posterior(estimator, pairs, batch_size, model)
        own = estimator.treatment
        if name == "soften" and isinstance(own, Distill):  # of cosines
            own = Soften(alpha=1.3, beta=0.7, temperature=0.1)
        starts_with_own = name == "soften" and isinstance(own, Soften)
        made.append(replace(own, **options) if starts_with_own else TREATMENTS[name](**options))  # type: ignore[type-var]
    return made


def make_estimator(
    estimator: str | Mapping[str, Any],
    model: SentenceTransformer,
    pairs: Dataset,
    settings: Mapping[str, Any],
    teachers: Teachers,
) -> SimilarityEstimator:
    """Make an estimator as a row has it, with its teacher's vectors of the training texts at hand."""
    name, options = name_and_options(estimator)
    if name in KNOWN:
        return known_relevance(name, pairs, model)
    if name == "mixture":
        parts = [make_estimator(part, model, pairs, settings, teachers) for part in options.pop("parts")]
        return MixtureEstimator(parts, **options)
    teacher = options.pop("teacher", name)
    if teacher not in TEACHERS:
        return get_estimator(name, **options)
    folder = teachers.folder(teacher, settings)
    # One table a tokenizer and length: the key of a text is its ids as the model in training reads them.
    table = folder.with_name(f"{folder.name}-table-{digest([settings['model'], name, options])}")
    with FileLock(f"{table}.lock"):
        made = get_estimator(name, model=teachers.load(teacher, settings), table=table, **options)
        made.precompute(pairs.select_columns(["query", "code"]), model, show_progress=False)
    return made


def kind_of(row: Mapping[str, Any]) -> str | None:
    """Name what a row does with its estimator: its treatments, ``"oracle"``, or ``None`` for losses of others."""
    if row.get("loss") != "SoftInfoNCELoss":
        return None
    if name_and_options(row["estimator"])[0] == ORACLE:
        return ORACLE
    return " and ".join(name_and_options(one)[0] for one in treatments_of(row.get("treatment", "own")))


def _posterior(
    estimator: SimilarityEstimator, pairs: Dataset, batch_size: int, model: SentenceTransformer
) -> RelevancePosterior:
    texts = pairs.select_columns(["query", "code"])
    report = calibrate(estimator, texts, min(batch_size, len(texts)), model=model)
    if report.posterior is None:
        raise NotApplicable(f"no posterior: {report.discount_problem}")
    return report.posterior


def _choose_class(name: str, model: SentenceTransformer, regime: Mapping[str, Any]) -> Callable[..., nn.Module]:
    """Return a loss's class, or its version with cached gradients where the regime and the model need it."""
    if not regime.get("cached") or is_static(model):
        found: Callable[..., nn.Module] = _CLASSES[name]
        return found
    if f"Cached{name}" not in _CLASSES:
        raise NotApplicable(f"{name} has no version with cached gradients, which this batch size needs.")
    return partial(_CLASSES[f"Cached{name}"], mini_batch_size=regime.get("mini_batch_size", 32))


class GuidedLoss(host_losses.GISTEmbedLoss):
    """The host's GISTEmbedLoss for models and guides of static embeddings.

    The host asks for a tokenizer of transformers, to retokenize for another guide. A guide of the same static
    vocabulary needs none: it reads the very same ids.
    """

    def __init__(self, model: SentenceTransformer, guide: SentenceTransformer, **options: Any) -> None:
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
