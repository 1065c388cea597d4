"""InfoNCE with treatments of its negatives: the one loss of this package."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from sentence_transformers.util import cos_sim, dot_score, similarity_fct_name
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import Self, override

from st_softinfonce._checks import check_choice, check_not_negative, check_positive
from st_softinfonce.estimators.base import SimilarityEstimator, leaving_no_trace
from st_softinfonce.estimators.bm25 import BM25Estimator
from st_softinfonce.estimators.registry import describe_estimator
from st_softinfonce.functional import soft_info_nce
from st_softinfonce.known_queries import KnownQueries
from st_softinfonce.losses.base import Batch, InBatchLoss
from st_softinfonce.losses.judgement import DIRECTIONS, Direction, Judge, OneOrSeveral, read_judges
from st_softinfonce.treatments import combine, describe_treatments

PartitionMode = Literal["joint", "per_direction"]
HardnessMode = Literal["in_batch_negatives", "hard_negatives", "all_negatives"]
# The blocks without positives: a softmax of their own would have no target.
SAME_SIDE: tuple[Direction, ...] = ("query_to_query", "doc_to_doc")


@dataclass(frozen=True)
class Block:
    """What the loss makes of some rows and the candidates of one direction."""

    direction: Direction
    scores: Tensor  # (n, candidates), scaled; -inf for what is no candidate
    log_weights: Tensor | None  # (n, candidates), what the treatments add; None where they add nothing
    targets: Tensor | None  # (n, candidates); None where all of a row's target is its positive's
    positives: Tensor  # (n,), the column of each row's own pair (of the row itself, where there are no pairs)


class SoftInfoNCELoss(InBatchLoss):
    """InfoNCE that knows its negatives are not equally negative.

    For a batch of (query, positive) pairs or (query, positive, negative_1, ..., negative_n) tuples, with
    ``s = scale * similarity_fct(query, document)``, minimise (:func:`st_softinfonce.functional.soft_info_nce`)::

        -mean_i sum_j t[i, j] log( exp(s[i, j] + b[i, j]) / sum_k exp(s[i, k] + b[i, k]) )

    An estimator says which candidates are relevant to which query, and a treatment turns that into a bias ``b`` (the
    logarithm of a weight, -inf for a mask) or targets ``t``. The paper's Soft-InfoNCE (Li et al. 2023, Eq. 3
    and 4) is ``estimator="bm25"`` with its own treatment, and ``estimator=None`` is MultipleNegativesRankingLoss.

    Args:
        model: The model to train, a ``SentenceTransformer``.
        estimator: An installed estimator's name (``list_estimators()``), an instance with its options, or ``None``.
        treatment: What to do with relevant negatives, one treatment or several; ``None`` takes the estimator's own.
        treatments: For several estimators, instead of both: ``[(estimator, treatment), ...]``, each as above.
        scale: Above 0. Multiplies the model's similarity; the inverse of the softmax temperature.
        similarity_fct: ``(queries (B, D), documents (C, D)) -> (B, C)``.
        directions: Which candidates each row has, ``"query_to_doc"`` among them: all documents; with
            ``"doc_to_query"`` also all queries for its document, with ``"query_to_query"`` and ``"doc_to_doc"`` the
            other queries for its query and the other documents for its document.
        partition_mode: Whether the directions share one softmax, or have one each and are averaged. Shared, all
            targets are documents.
        gather_across_devices: Take the documents and queries of all devices as candidates.
        hardness_mode: Which negatives are pushed harder the more similar the model finds them, as the host's.
        hardness_strength: At least 0. Times ``similarity_fct`` it is added to their scores, a constant to gradients.
        known_queries: The queries of mined negatives, which an estimator that compares queries then judges too.

    Raises:
        ValueError: An option is out of range, or the estimator is unknown, breaks its contract or returns nan.
        TypeError: An estimator, a treatment, or another argument is of the wrong kind.

    Example:
        >>> from sentence_transformers import SentenceTransformer
        >>> from sentence_transformers.sentence_transformer.modules import StaticEmbedding
        >>> from tokenizers import Tokenizer, models
        >>> words = StaticEmbedding(Tokenizer(models.WordLevel({"sort": 0, "list": 1})), embedding_dim=4)
        >>> SoftInfoNCELoss(SentenceTransformer(modules=[words]), "bm25").judges[0].treatments
        (Soften(alpha=1.5, beta=0.5, temperature=1.0, min_weight=0.1),)
    """

    def __init__(
        self,
        model: nn.Module,
        estimator: str | SimilarityEstimator | None = "bm25",
        treatment: OneOrSeveral | None = None,
        *,
        treatments: Sequence[tuple[str | SimilarityEstimator, OneOrSeveral | None]] | None = None,
        scale: float = 20.0,
        similarity_fct: Callable[..., Tensor] = cos_sim,
        directions: Sequence[Direction] = ("query_to_doc",),
        partition_mode: PartitionMode = "joint",
        gather_across_devices: bool = False,
        hardness_mode: HardnessMode | None = None,
        hardness_strength: float = 0.0,
        known_queries: KnownQueries | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be the model to train, got {type(model).__name__}.")
        if not callable(similarity_fct):
            raise TypeError(
                f"similarity_fct must be a function of two tensors such as sentence_transformers.util.cos_sim, got "
                f"{similarity_fct!r}."
            )
        judges = read_judges(estimator, treatment, treatments)
        _check_known_queries(known_queries, judges)
        super().__init__(model, judges, gather_across_devices=gather_across_devices, known_queries=known_queries)
        self.scale = check_positive("scale", scale)
        self.similarity_fct = similarity_fct
        self.directions = _checked_directions(directions)
        check_choice("partition_mode", partition_mode, get_args(PartitionMode))
        if partition_mode == "per_direction" and set(self.directions) & set(SAME_SIDE):
            raise ValueError(
                f"partition_mode='per_direction' needs directions that hold the positive pair, got {self.directions}: "
                f"{' and '.join(SAME_SIDE)} never do. Use partition_mode='joint'."
            )
        self.partition_mode = partition_mode
        check_choice("hardness_mode", hardness_mode, (None, *get_args(HardnessMode)))
        self.hardness_mode = hardness_mode
        self.hardness_strength = check_not_negative("hardness_strength", hardness_strength)
        self._block_hooks: OrderedDict[int, Callable[[SoftInfoNCELoss, Block], None]] = OrderedDict()

    @classmethod
    def paper(
        cls,
        model: nn.Module,
        estimator: str | SimilarityEstimator | None = "bm25",
        treatment: OneOrSeveral | None = None,
        **options: Any,
    ) -> Self:
        """Make the loss as the paper has it: dot products at scale 1, and BM25 that counts every token.

        The arguments are those of the class; the model's vectors should not be normalised.
        """
        if estimator == "bm25" and options.get("treatments") is None:
            estimator = BM25Estimator(tokens="all")
        return cls(model, estimator, treatment, **{"similarity_fct": dot_score, "scale": 1.0, **options})

    @override
    def rows_loss(self, batch: Batch, rows: Tensor) -> Tensor:
        similarity = {direction: self._similarity(batch, rows, direction) for direction in self.directions}
        blocks = self._blocks(batch, rows, similarity)
        for hook in self._block_hooks.values():
            for block in blocks:
                hook(self, block)
        log_weights = [block.log_weights for block in blocks]
        if self.hardness_mode is not None and self.hardness_strength > 0:
            # Hardness comes after the treatments: what a mask has taken out stays out.
            harder, weighed = self._hardness(batch, rows, similarity["query_to_doc"]), log_weights[0]
            log_weights[0] = harder if weighed is None else weighed + harder
        if self.partition_mode == "per_direction":
            losses = [
                soft_info_nce(block.scores, bias, targets=block.targets, positives=rows)
                for block, bias in zip(blocks, log_weights, strict=True)
            ]
            return torch.stack(losses).mean()
        scores = torch.cat([block.scores for block in blocks], dim=1)
        bias = None
        if any(weights is not None for weights in log_weights):
            bias = torch.cat(
                [
                    torch.zeros_like(block.scores) if weights is None else weights.to(scores.dtype)
                    for weights, block in zip(log_weights, blocks, strict=True)
                ],
                dim=1,
            )
        targets = blocks[0].targets
        if targets is not None:
            targets = nn.functional.pad(targets, (0, scores.size(1) - targets.size(1)))
        return soft_info_nce(scores, bias, targets=targets, positives=rows)

    def _similarity(self, batch: Batch, rows: Tensor, direction: Direction) -> Tensor:
        """Compare some rows with the candidates of one direction by the model: ``(rows, candidates)``, no scale."""
        queries, documents = batch.queries, batch.documents
        if direction == "query_to_doc":
            return self.similarity_fct(queries[rows], documents)
        if direction == "query_to_query":
            return self.similarity_fct(queries[rows], queries)
        # The positives are the first documents, so row i's document is number i.
        if direction == "doc_to_query":
            return self.similarity_fct(queries, documents[rows]).T
        return self.similarity_fct(documents, documents[rows]).T

    def _blocks(self, batch: Batch, rows: Tensor, similarity: dict[Direction, Tensor]) -> list[Block]:
        """Scale the similarities, and have every estimator judge the candidates."""
        judged = []
        for judgement in batch.judgements:
            with leaving_no_trace(judgement.judge.estimator, self.model):
                judged.append((judgement.judge.treatments, judgement.blocks(self.directions, rows, similarity)))
        blocks = []
        for direction in self.directions:
            scores = similarity[direction] * self.scale
            if direction in SAME_SIDE:
                # A text, and a query's own documents, are no candidates for themselves.
                columns = torch.arange(scores.size(1), device=rows.device) % batch.queries.size(0)
                scores = scores.masked_fill(columns == rows.unsqueeze(1), -torch.inf)
            judgements = [(treatments, *found[direction]) for treatments, found in judged]
            blocks.append(Block(direction, scores, *combine(judgements, rows), rows))
        return blocks

    def _hardness(self, batch: Batch, rows: Tensor, similarity: Tensor) -> Tensor:
        """Compute what is added to the scores of hard negatives (Lan et al. 2025, Eq. 5): ``(rows, M)``."""
        # Columns are blocks of all queries' positives, then of all queries' first negatives, and so on.
        columns = torch.arange(similarity.size(1), device=similarity.device)
        own = columns % batch.queries.size(0) == rows.unsqueeze(1)  # (rows, M): the query's positive and negatives
        positive = columns == rows.unsqueeze(1)
        chosen = {"in_batch_negatives": ~own, "hard_negatives": own & ~positive, "all_negatives": ~positive}
        return (self.hardness_strength * similarity.detach()).masked_fill(~chosen[str(self.hardness_mode)], 0.0)

    def register_block_hook(self, hook: Callable[[SoftInfoNCELoss, Block], None]) -> RemovableHandle:
        """Have ``hook(loss, block)`` called with every block of candidates, before hardness is added.

        It must not change the block. The ``remove()`` of the handle that is returned ends it.
        """
        handle = RemovableHandle(self._block_hooks)
        self._block_hooks[handle.id] = hook
        return handle

    @override
    def get_config_dict(self) -> dict[str, Any]:
        described = [
            {**describe_estimator(judge.estimator), "treatment": describe_treatments(judge.treatments)}
            for judge in self.judges
        ] or [{"estimator": None}]
        return {
            **(described[0] if len(described) == 1 else {"estimators": described}),
            "scale": self.scale,
            "similarity_fct": similarity_fct_name(self.similarity_fct),
            "directions": list(self.directions),
            "partition_mode": self.partition_mode,
            "gather_across_devices": self.gather_across_devices,
            "hardness_mode": self.hardness_mode,
            "hardness_strength": self.hardness_strength,
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


def _checked_directions(directions: Sequence[Direction]) -> tuple[Direction, ...]:
    chosen = (directions,) if isinstance(directions, str) else tuple(directions)
    unknown = [direction for direction in chosen if direction not in DIRECTIONS]
    if unknown or "query_to_doc" not in chosen:
        raise ValueError(
            f"directions must be among {DIRECTIONS}, 'query_to_doc' (which holds the positive) with them, got "
            f"{directions!r}."
        )
    # The block that holds the positives and the targets comes first.
    return tuple(direction for direction in DIRECTIONS if direction in chosen)


def _check_known_queries(known_queries: object, judges: Sequence[Judge]) -> None:
    if known_queries is None:
        return
    if not isinstance(known_queries, KnownQueries):
        raise TypeError(
            f"known_queries must be a KnownQueries, got {type(known_queries).__name__}. KnownQueries(query_of, "
            "model) makes one from a mapping of document to query."
        )
    compared = {judge.estimator.name: judge.estimator.compares for judge in judges}
    if "queries" not in compared.values():
        raise ValueError(
            f"known_queries are for estimators that compare queries, got {compared or None}: those judge mined "
            "negatives by their own text. Leave known_queries out."
        )
