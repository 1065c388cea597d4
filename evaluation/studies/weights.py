"""The weights of a plan's rows outside training: their spread, one batch shown, and the curves of the formulas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from torch import Tensor

from evaluation.environment import find_config, write_json
from evaluation.runs.base_models import load_model
from evaluation.runs.losses import NotApplicable, kind_of, make_estimator, make_treatments
from evaluation.runs.plan import Config, Plan, Run
from evaluation.runs.train import Bench
from st_softinfonce import RelevancePosterior, SimilarityEstimator, Treatment, inspect_pairs
from st_softinfonce.functional import negative_weights, posterior_weights
from st_softinfonce.pair_batches import PairTexts, batch_similarities, negatives_of
from st_softinfonce.treatments import combine

BATCHES = 20
CASE_BATCHES = 100
# The figure of the formulas. Name, unit, largest similarity drawn, options: the paper's, as in the README's table.
BATCH_SIZES = (16, 64, 256)
PANELS = (
    ("bm25", "BM25 score", 12.0, {"alpha": 1.5, "beta": 0.5, "temperature": 1.0}),
    ("simcse", "cosine", 1.0, {"alpha": 1.3, "beta": 0.7, "temperature": 0.1}),
    ("trained-model", "dot product", 60.0, {"alpha": 1.3, "beta": 0.7, "temperature": 5.0}),
)


@dataclass(frozen=True)
class Weigher:
    """A row's weights on its training pairs.

    Attributes:
        model: The base model.
        estimator: The row's.
        pairs: The training pairs, ``query`` and ``code``.
        batch_size: Pairs a batch.
        treatments: The row's.
    """

    model: SentenceTransformer
    estimator: SimilarityEstimator
    pairs: Dataset
    batch_size: int
    treatments: Sequence[Treatment]

    @classmethod
    def of(cls, bench: Bench, run: Run, batch_size: int) -> Weigher:
        """Make it as training does.

        Raises:
            NotApplicable: The row has no such weights.
        """
        settings = run.settings
        model = load_model(settings["model"], bench.device)
        pairs = bench.corpus.training_pairs(settings)
        estimator = make_estimator(settings["row"]["estimator"], model, pairs, settings, bench.teachers)
        treatments = make_treatments(settings["row"]["treatment"], estimator, pairs, batch_size, model)
        return cls(model, estimator, pairs.select_columns(["query", "code"]), batch_size, treatments)

    @property
    def options(self) -> dict[str, float]:
        """What it weighs with; of a posterior, its prior."""
        described = self.treatments[0].get_config_dict()
        posterior = described.pop("posterior", None)
        options = {name: value for name, value in described.items() if name != "treatment"}
        return options if posterior is None else options | {"prior": posterior["prior"]}

    def similarities(self, count: int) -> Iterator[tuple[list[int], Tensor]]:
        """Yield the rows and the similarities of so many random batches, the same ones for every row of a plan."""
        texts = PairTexts(self.pairs, model=self.model)
        for rows, similarity in batch_similarities(self.estimator, texts, self.batch_size, batches=count, seed=0):
            yield rows, similarity.cpu()

    def batches(self, count: int) -> Iterator[tuple[list[int], Tensor]]:
        """Yield the rows and the weights ``(N, N)`` of so many random batches."""
        for rows, similarity in self.similarities(count):
            log_weights, _ = combine([(self.treatments, similarity, None)], torch.arange(self.batch_size))
            assert log_weights is not None  # soft_runs() takes rows with weights alone
            yield rows, log_weights.exp()


def soft_runs(plan: Plan, language: str | None = None) -> dict[str, Run]:
    """Return one run of each row that softens or discounts, by its name, of the first model and regime.

    Rows with hardness are left out: their weights are those of the same row without.

    Args:
        plan: The plan.
        language: ``None`` takes the first.
    """
    cells = list(plan.cells())
    place = (cells[0].model, language or cells[0].language, cells[0].regime)
    runs = {}
    for cell in cells:
        row = plan.config.rows[cell.row]
        weighs = kind_of(row) in ("soften", "discount") and "hardness_mode" not in row.get("options", {})
        if weighs and (cell.model, cell.language, cell.regime) == place:
            runs[cell.row] = plan.test_runs(cell, {})[0]
    return runs


def measure(name: str, output: Path, results: Path, *, corpus: str | None = None, batch_size: int = 64) -> None:
    """Write ``weights.json`` to the results, and beside the runs a page of the batch with most to soften.

    Args:
        name: Of the plan, or its TOML file.
        output: Folder of all runs; the plan's teachers are made there if need be.
        results: Folder of the results.
        corpus: ``None`` takes the file's.
        batch_size: Pairs a batch.
    """
    config = Config.read(find_config(name))
    bench = Bench(config, output / config.name, corpus)
    runs = soft_runs(Plan(config, bench.corpus.fingerprint))
    rows: dict[str, Any] = {}
    for row, run in runs.items():
        try:
            weigher = Weigher.of(bench, run, batch_size)
        except NotApplicable as reason:
            print(f"{row} is left out: {reason}")
            continue
        positives = torch.arange(batch_size)
        found = torch.cat([negatives_of(batch, positives).flatten() for _, batch in weigher.batches(BATCHES)]).float()
        rows[row] = weigher.options | {
            "below_0_9": float((found < 0.9).float().mean()),
            "below_0_5": float((found < 0.5).float().mean()),
            "quantiles": torch.quantile(found, torch.tensor([0.001, 0.01, 0.1, 0.5, 0.9, 0.99])).tolist(),
        }
        if len(rows) == 1:
            page = output / config.name / "case_study.html"
            _show_most_softened(weigher, page, f"One batch of {batch_size}, weighed by {row}")
        print(f"{row}: {rows[row]['below_0_9']:.2%} of the negatives below 0.9")
    place = {"language": next(iter(runs.values())).settings["language"], "batch_size": batch_size}
    command = f"python -m evaluation figures --weights {config.name}"
    write_json(results / "weights.json", {"command": command, **place, "rows": rows})


def _show_most_softened(weigher: Weigher, page: Path, title: str) -> None:
    """Write a page of the batch, of the first hundred in random order, with the negative most like its positive."""
    positives = torch.arange(weigher.batch_size)
    best, chosen = float("-inf"), list(range(weigher.batch_size))
    for rows, similarity in weigher.similarities(min(CASE_BATCHES, len(weigher.pairs) // weigher.batch_size)):
        highest = float(negatives_of(similarity / similarity.diagonal()[:, None], positives).max())
        if highest > best:
            best, chosen = highest, rows
    pairs = weigher.pairs.select(chosen)
    inspection = inspect_pairs(
        pairs, weigher.estimator, treatment=weigher.treatments, model=weigher.model, batch_size=weigher.batch_size
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    inspection.write_page(page, title=title)
    print(f"Case study: {page}")


def spaced(most: float) -> Tensor:
    """Return the similarities that a curve is drawn at, ``(121,)`` from 0."""
    return torch.linspace(0, most, 121)


def paper_curve(similarities: Tensor, batch_size: int, **options: float) -> Tensor:
    """Compute the weight of one negative at each similarity, the others of its batch having similarity 0.

    Args:
        similarities: Of that negative, ``(P,)``.
        batch_size: Candidates of the query, its positive among them.
        **options: ``alpha``, ``beta`` and ``temperature``.

    Returns:
        Weights ``(P,)``.
    """
    rows = torch.zeros(len(similarities), batch_size)
    rows[:, 1] = similarities
    positives = torch.zeros(len(similarities), dtype=torch.long)
    return negative_weights(rows, positives=positives, **options)[:, 1]


def posterior_curve(similarities: Tensor, prior: float) -> Tensor:
    """Compute the weight of one negative by a posterior of normal densities: no data, an illustration.

    Args:
        similarities: Cosines ``(P,)``. Known pairs are around 0.7, random ones around 0.1, both of deviation 0.12.
        prior: The probability that a random pair is relevant.

    Returns:
        Weights ``(P,)``.
    """
    # The logarithm of two such densities' ratio is a straight line: two knots hold it.
    knots = torch.tensor([0.0, 1.0])
    log_ratios = ((knots - 0.1) ** 2 - (knots - 0.7) ** 2) / (2 * 0.12**2)
    posterior = RelevancePosterior(knots=tuple(knots.tolist()), log_ratios=tuple(log_ratios.tolist()), prior=prior)
    rows = torch.stack([torch.ones_like(similarities), similarities], dim=1)
    positives = torch.zeros(len(similarities), dtype=torch.long)
    return posterior_weights(rows, posterior=posterior, positives=positives)[:, 1]
