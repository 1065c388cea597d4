"""What would treatments do to my data: the negatives treated, with their texts, as a DataFrame and as a page."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from torch import Tensor, nn
from tqdm import tqdm

from st_softinfonce._checks import check_count
from st_softinfonce.effects import EFFECTS, EffectSums, effect_of
from st_softinfonce.estimators.base import Compares, SimilarityEstimator
from st_softinfonce.inspection_page import ORIGIN, render
from st_softinfonce.losses.judgement import OneOrSeveral, read_judges
from st_softinfonce.pair_batches import PairTexts, batch_similarities
from st_softinfonce.treatments import Distill, combine

__all__ = ["Inspection", "inspect_pairs"]


@dataclass(frozen=True)
class Inspection:
    """What treatments do to a dataset: :func:`inspect_pairs` makes it.

    Attributes:
        negatives: The negatives that are treated most, one row for each two queries. Columns: ``query``, ``code``,
            ``negative_query``, ``negative_code``; ``similarity`` (of several estimators the first's; the others'
            are ``similarity_NAME``) and ``own_similarity``, that of the query's own pair; ``weight`` (0 if masked),
            ``target`` and ``effect`` (``"masked"``, ``"promoted"``, ``"taught"`` or ``"softened"``); ``row`` and
            ``negative_row`` of the dataset; and ``path``, ``name`` and ``package`` of both where the dataset has
            them.
        summary: Numbers by their name, for reading.
        compares: What the first estimator compares, as :attr:`SimilarityEstimator.compares`.
    """

    negatives: pd.DataFrame
    summary: dict[str, str]
    compares: Compares

    def to_dict(self) -> dict[str, Any]:
        """Return ``summary`` and ``negatives`` as JSON primitives; ``None`` is a similarity of -inf."""
        negatives = json.loads(self.negatives.to_json(orient="records", double_precision=15))
        return {"summary": self.summary, "negatives": negatives}

    def write_page(self, path: str | os.PathLike[str], *, title: str = "Likely false negatives") -> Path:
        """Write one HTML page that needs nothing else: what to make of it, numbers, and the texts side by side.

        An existing file at ``path``, which is returned, is replaced; ``title`` is the page's heading.
        """
        target = Path(path)
        target.write_text(render(title, self.summary, self.negatives, self.compares), encoding="utf-8")
        return target


def inspect_pairs(
    pairs: Dataset,
    estimator: str | SimilarityEstimator = "bm25",
    treatment: OneOrSeveral | None = None,
    *,
    treatments: Sequence[tuple[str | SimilarityEstimator, OneOrSeveral | None]] | None = None,
    model: nn.Module,
    batch_size: int = 64,
    top: int = 100,
    passes: int = 1,
    seed: int = 0,
    **reading: Any,
) -> Inspection:
    """Go through a dataset in batches, as training does, and see what treatments do to its negatives.

    A pass sees ``batch_size - 1`` negatives of each query, those that share its batch: a larger batch or more passes
    find more of the data's false negatives. The last batch is left out if it is not full.

    Args:
        pairs: The columns ``query`` and ``code``, or else the first two columns.
        estimator: As for :class:`~st_softinfonce.SoftInfoNCELoss`: an installed estimator's name, or an estimator.
            One that compares the model's scores is given those of the model as it is.
        treatment: Likewise: one treatment or several; ``None`` takes the estimator's own.
        treatments: Likewise, instead of both: ``[(estimator, treatment), ...]``.
        model: The model to train, which decides what is read of the texts.
        batch_size: At least 2; the paper's weights depend on it. Made smaller if there are fewer pairs.
        top: At least 1. Negatives to keep of each effect, one for each two queries (by their text).
        passes: At least 1. Times to go through the data, each in another order.
        seed: Of the order.
        **reading: ``prompts``, ``router_mapping`` and ``max_length`` as given to the trainer: see
            :class:`~st_softinfonce.pair_batches.PairTexts`.

    Returns:
        The negatives that are treated (masked, at a weight below 0.9, or with more than a tenth of their positive's
        target), and numbers.

    Raises:
        ValueError: An option is out of range, the treatment has no effect, or the estimator is unknown or breaks
            its contract.
        TypeError: Something else than an estimator or a treatment is given.
    """
    judges = read_judges(estimator, treatment, treatments)
    if not judges:
        raise ValueError(f"treatment must have an effect, got {treatment or treatments!r}: this is plain InfoNCE.")
    for name, value, least in (("top", top, 1), ("passes", passes, 1), ("batch_size", batch_size, 2)):
        check_count(name, value, least)
    texts = PairTexts(pairs, model=model, **reading)
    batch_size = max(2, min(batch_size, len(texts)))
    batches = passes * max(1, len(texts) // batch_size)
    blocks = zip(
        *(batch_similarities(judge.estimator, texts, batch_size, batches=batches, seed=seed) for judge in judges),
        strict=True,
    )
    taught = any(isinstance(treatment, Distill) for judge in judges for treatment in judge.treatments)
    scan = _Scan(texts, top, taught, ["similarity", *(f"similarity_{judge.estimator.name}" for judge in judges[1:])])
    positives = torch.arange(batch_size)
    for judged in tqdm(blocks, desc="Inspecting", total=batches, unit="batch", disable=None):
        similarities = [similarity.cpu() for _, similarity in judged]
        said = [(judge.treatments, similarity, None) for judge, similarity in zip(judges, similarities, strict=True)]
        scan.add(np.array(judged[0][0]), similarities, *combine(said, positives))
    effects = scan.sums.read()
    assert effects is not None  # there is at least one batch of two
    summary = {
        "estimator": "; ".join(f"{judge.estimator.name} (compares {judge.estimator.compares})" for judge in judges),
        "treatment": "; ".join(" and ".join(map(str, judge.treatments)) for judge in judges),
        "pairs": f"{len(texts):,}",
        "batch size": f"{batch_size:,}",
        "negatives seen": f"{scan.seen:,}",
        **{effect: scan.share(scan.counts[place]) for place, effect in enumerate(EFFECTS, 1)},
        "with the same query text": scan.share(scan.twins),
        **({"share of the targets": f"{effects.target:.3%}"} if effects.target else {}),
        "effective negatives": f"{effects.effective_negatives:.4g} of {batch_size - 1}",
    }
    return Inspection(_with_texts(scan.kept, texts, pairs), summary, judges[0].estimator.compares)


class _Scan:
    """What is kept of the batches seen so far: counts, and of each effect the strongest for each two queries."""

    def __init__(self, texts: PairTexts, top: int, taught: bool, similarities: list[str]) -> None:
        # Which query each pair has, as a number.
        self._query_of = np.unique(np.array(texts.queries, dtype=object), return_inverse=True)[1]
        self._top, self._taught, self._names = top, taught, similarities
        self.sums = EffectSums()
        self.seen = self.twins = 0
        self.counts = np.zeros(len(EFFECTS) + 1, dtype=np.int64)
        columns = ["row", "negative_row", *similarities, "own_similarity", "weight", "target", "effect"]
        self.kept = pd.DataFrame(columns=columns)

    def share(self, count: int) -> str:
        return f"{count:,} ({100 * count / self.seen:.3g}%)"

    def add(
        self, rows: np.ndarray, similarities: list[Tensor], log_weights: Tensor | None, targets: Tensor | None
    ) -> None:
        positives = torch.arange(len(rows))
        negative = ~torch.eye(len(rows), dtype=torch.bool)
        self.sums.add(log_weights, targets, positives, negative)
        effect = effect_of(log_weights, targets, positives, negative, taught=self._taught)
        own = self._query_of[rows]
        self.seen += int(negative.sum())
        self.twins += int((own[:, None] == own[None, :]).sum()) - len(rows)
        self.counts += np.bincount(effect[negative].numpy(), minlength=len(self.counts))
        place, other = effect.nonzero().numpy().T
        found: dict[str, Any] = {
            "row": rows[place],
            "negative_row": rows[other],
            "own_similarity": similarities[0].diagonal().numpy()[place],
            "weight": 1.0 if log_weights is None else log_weights.exp().numpy()[place, other],
            "target": 0.0 if targets is None else targets.numpy()[place, other],
            "effect": effect.numpy()[place, other],
        }
        for name, similarity in zip(self._names, similarities, strict=True):
            found[name] = similarity.numpy()[place, other]
        new = pd.DataFrame(found, columns=self.kept.columns)
        self.kept = self._strongest(pd.concat([self.kept, new]) if len(self.kept) else new)

    def _strongest(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Keep the strongest of each effect, one for each two queries by their text."""
        frame = frame.sort_values(
            ["effect", "weight", "target", *self._names, "row", "negative_row"],
            ascending=[True, True, False, *[False] * len(self._names), True, True],
        )
        own = self._query_of[frame["row"].astype(int)]
        other = self._query_of[frame["negative_row"].astype(int)]
        frame = frame.assign(one=np.minimum(own, other), two=np.maximum(own, other))
        # Repeats first: equal queries would take all the places.
        frame = frame.drop_duplicates(["effect", "one", "two"]).groupby("effect").head(self._top)
        return frame.drop(columns=["one", "two"])


def _with_texts(kept: pd.DataFrame, texts: PairTexts, pairs: Dataset) -> pd.DataFrame:
    """Put the texts, and where they come from, beside the numbers of the negatives kept."""
    rows = {"": kept["row"].astype(int).tolist(), "negative_": kept["negative_row"].astype(int).tolist()}
    columns: dict[str, Any] = {}
    for prefix, places in rows.items():
        columns[f"{prefix}query"] = [texts.queries[row] for row in places]
        columns[f"{prefix}code"] = [texts.documents[row] for row in places]
    numbers = [name for name in kept.columns if name not in ("row", "negative_row", "effect")]
    columns |= {name: kept[name].tolist() for name in numbers}
    columns["effect"] = [EFFECTS[int(number) - 1] for number in kept["effect"]]
    columns |= {f"{prefix}row": places for prefix, places in rows.items()}
    plain = pairs.with_format(None)
    for name in ORIGIN:
        if name in pairs.column_names:
            columns |= {f"{prefix}{name}": plain.select(places)[name][:] for prefix, places in rows.items()}
    return pd.DataFrame(columns)
