"""The weights of a plan's rows outside training: their spread, and the curves of the formulas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evaluation.environment import find_config, write_result
from evaluation.runs.base_models import load_model
from evaluation.runs.losses import NotApplicable, kind_of, make_estimator, make_treatments
from evaluation.runs.plan import Config, Plan, Run
from evaluation.runs.train import Bench
from st_softinfonce import RelevancePosterior
from st_softinfonce.functional import negative_weights, posterior_weights
from st_softinfonce.pair_batches import PairTexts, batch_similarities, negatives_of
from st_softinfonce.treatments import combine

BATCHES = 20
# The figure of the formulas. Name, unit, largest similarity drawn, options: the paper's, as in the README's table.
BATCH_SIZES = (16, 64, 256)
PANELS = (
    ("bm25", "BM25 score", 12.0, {"alpha": 1.5, "beta": 0.5, "temperature": 1.0}),
    ("simcse", "cosine", 1.0, {"alpha": 1.3, "beta": 0.7, "temperature": 0.1}),
    ("trained-model", "dot product", 60.0, {"alpha": 1.3, "beta": 0.7, "temperature": 5.0}),
)


def soft_runs(plan: Plan, language: str | None = None) -> dict[str, Run]:
    """Return one run of each row that softens or discounts, by its name, of the plan's first model and regime.

    The language is the plan's first by default. Rows with hardness are left out: their weights are those of the same
    row without.
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


def weigh(
    bench: Bench, run: Run, batch_size: int, batches: int
) -> tuple[dict[str, float], Iterator[tuple[list[int], Tensor]]]:
    """Weigh random batches of a run's training pairs as training does; they are the same ones for every row of a plan.

    Returns:
        What it weighs with (of a posterior, its prior), and for each batch its rows and the weights ``(N, N)``.

    Raises:
        NotApplicable: The row has no such weights.
    """
    settings, row = run.settings, run.settings["row"]
    model = load_model(settings["model"], bench.device)
    pairs = bench.corpus.training_pairs(settings)
    estimator = make_estimator(row["estimator"], model, pairs, settings, bench.teachers)
    treatments = make_treatments(row["treatment"], estimator, pairs, batch_size, model)
    options = treatments[0].get_config_dict()
    del options["treatment"]
    if "posterior" in options:
        options["prior"] = options.pop("posterior")["prior"]

    def weights() -> Iterator[tuple[list[int], Tensor]]:
        texts = PairTexts(pairs.select_columns(["query", "code"]), model=model)
        for rows, similarity in batch_similarities(estimator, texts, batch_size, batches=batches, seed=0):
            log_weights, _ = combine([(treatments, similarity.cpu(), None)], torch.arange(batch_size))
            assert log_weights is not None  # soft_runs() takes rows with weights alone
            yield rows, log_weights.exp()

    return options, weights()


def measure(name: str, output: Path, results: Path, *, corpus: str | None = None, batch_size: int = 64) -> None:
    """Write ``weights.json`` of a plan to the results; teachers are made in the folder of runs if need be."""
    config = Config.read(find_config(name))
    bench = Bench(config, output / config.name, corpus)
    runs = soft_runs(bench.plan())
    rows: dict[str, Any] = {}
    for row, run in runs.items():
        try:
            options, batches = weigh(bench, run, batch_size, BATCHES)
        except NotApplicable as reason:
            print(f"{row} is left out: {reason}")
            continue
        found = torch.cat(
            [negatives_of(weights, torch.arange(batch_size)).flatten() for _, weights in batches]
        ).float()
        rows[row] = options | {
            "below_0_9": float((found < 0.9).float().mean()),
            "below_0_5": float((found < 0.5).float().mean()),
            "quantiles": torch.quantile(found, torch.tensor([0.001, 0.01, 0.1, 0.5, 0.9, 0.99])).tolist(),
        }
    content = {
        "command": f"python -m evaluation figures --weights {config.name}",
        "language": next(iter(runs.values())).settings["language"],
        "batch_size": batch_size,
        "rows": rows,
    }
    write_result(results / "weights.json", content, "weights.json")


def spaced(most: float) -> Tensor:
    """Return the similarities that a curve is drawn at, ``(121,)`` from 0."""
    return torch.linspace(0, most, 121)


def paper_curve(similarities: Tensor, batch_size: int, **options: float) -> Tensor:
    """Compute the weight of one negative at each similarity ``(P,)``, the others of its batch having similarity 0.

    The batch size counts the positive.
    """
    rows = torch.zeros(len(similarities), batch_size)
    rows[:, 1] = similarities
    positives = torch.zeros(len(similarities), dtype=torch.long)
    return negative_weights(rows, positives=positives, **options)[:, 1]


def posterior_curve(similarities: Tensor, prior: float) -> Tensor:
    """Compute the weight of one negative at each cosine ``(P,)`` by a posterior of two normals.

    Cosines of relevant pairs are around 0.7, those of random pairs around 0.1, both of deviation 0.12; the prior is
    the probability that a random pair is relevant.
    """
    # The logarithm of two such densities' ratio is a straight line: two knots hold it.
    knots = torch.tensor([0.0, 1.0])
    log_ratios = ((knots - 0.1) ** 2 - (knots - 0.7) ** 2) / (2 * 0.12**2)
    posterior = RelevancePosterior(knots=tuple(knots.tolist()), log_ratios=tuple(log_ratios.tolist()), prior=prior)
    rows = torch.stack([torch.ones_like(similarities), similarities], dim=1)
    positives = torch.zeros(len(similarities), dtype=torch.long)
    return posterior_weights(rows, posterior=posterior, positives=positives)[:, 1]
