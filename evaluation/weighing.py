"""The weights of a row of the comparison, outside training: for the figures, and for what they do to the gradient."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evaluation.matrix import SOFT, Matrix, Run
from evaluation.models import load_model
from evaluation.report import RESULTS
from evaluation.schedule import workshop_options
from evaluation.training import Workshop
from st_softinfonce.calibration import PairTexts, batch_similarities, calibrate
from st_softinfonce.estimators import SimilarityEstimator
from st_softinfonce.functional import RelevancePosterior, negative_weights, posterior_weights, temperature_for_share
from st_softinfonce.losses.soft_info_nce import AUTO_ROWS, AUTO_SHARE, SoftInfoNCELoss

MIN_WEIGHT = inspect.signature(SoftInfoNCELoss).parameters["min_weight"].default


def parser_of_results(description: str | None) -> argparse.ArgumentParser:
    """Make a command line that reads what evaluation/compare.py made of a file.

    Args:
        description: For ``--help``.

    Returns:
        A parser to add to.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, metavar="CONFIG.toml")
    parser.add_argument("--corpus", help="folder or name of the corpus (default: as the file says)")
    parser.add_argument("--output", type=Path, default=Path("output/evaluation"), help="default: %(default)s")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: evaluation/results")
    return parser


def workshop_of(matrix: Matrix, given: argparse.Namespace) -> Workshop:
    """Open the workshop that the runs of a matrix were made in, with its teachers.

    Args:
        matrix: Gets its fingerprints.
        given: Of the command line.

    Returns:
        The workshop.
    """
    options = workshop_options(matrix, given.output / matrix.name, given.corpus or matrix.corpus["folder"])
    workshop = Workshop(**options)
    matrix.fingerprints = workshop.fingerprint
    return workshop


def soft_runs(matrix: Matrix, language: str | None = None) -> dict[str, Run]:
    """Return one run of each Soft-InfoNCE row, of the first model and regime.

    Rows with hardness are left out: their weights are those of the same row without.

    Args:
        matrix: With fingerprints.
        language: ``None`` takes the first.

    Returns:
        Runs by row.
    """
    cells = list(matrix.cells())
    first = cells[0]
    place = (first.model, language or first.language, first.regime)
    runs = {}
    for cell in cells:
        row = matrix.content["rows"][cell.row]
        plain = row.get("loss") == SOFT and "hardness_mode" not in row.get("options", {})
        if plain and (cell.model, cell.language, cell.regime) == place:
            runs[cell.row] = matrix.test_runs(cell, None, None)[0]
    return runs


@dataclass(frozen=True)
class Weigher:
    """A row's estimator and how its similarities become weights.

    Attributes:
        estimator: The estimator.
        texts: The training pairs.
        batch_size: Pairs a batch.
        options: ``min_weight``, and without a posterior ``alpha``, ``beta`` and ``temperature``.
        posterior: Of the posterior's weighting.
    """

    estimator: SimilarityEstimator
    texts: PairTexts
    batch_size: int
    options: dict[str, float]
    posterior: RelevancePosterior | None = None

    @classmethod
    def of(cls, workshop: Workshop, run: Run, batch_size: int) -> Weigher | None:
        """Make it as training does.

        Args:
            workshop: Makes the row's estimator.
            run: Any run of the row.
            batch_size: Pairs a batch.

        Returns:
            The weigher; ``None`` if the row asks for a posterior that cannot be had.
        """
        settings = run.settings
        options: dict[str, Any] = settings["row"].get("options", {})
        model = load_model(settings["model"], workshop.device)
        pairs = workshop.pairs(settings["language"], settings["corpus"]["train_pairs"])["train"]
        estimator = workshop.estimator(settings["row"], model, pairs, settings)
        pairs = pairs.select_columns(["query", "code"])
        texts = PairTexts(pairs, model=model)
        floor = {"min_weight": options.get("min_weight", MIN_WEIGHT)}
        if options.get("weighting") == "posterior":
            posterior = calibrate(estimator, pairs, batch_size, model=model).posterior
            return None if posterior is None else cls(estimator, texts, batch_size, floor, posterior)
        defaults = estimator.weighting
        used = {"alpha": options.get("alpha", defaults.alpha), "beta": options.get("beta", defaults.beta)}
        temperature = options.get("weight_temperature", defaults.temperature)
        if temperature == "auto":
            ((_, similarity),) = batch_similarities(estimator, texts, batch_size, batches=1, seed=0)
            rows = torch.arange(min(batch_size, AUTO_ROWS))
            found = temperature_for_share(similarity[rows], share=AUTO_SHARE, positives=rows, **used)
            temperature = found or defaults.temperature
        return cls(estimator, texts, batch_size, used | floor | {"temperature": temperature})

    def batches(self, count: int) -> Iterator[tuple[list[int], Tensor]]:
        """Weigh the negatives of random batches, the same ones for every row.

        Args:
            count: How many.

        Yields:
            The pairs of a batch, and the weights ``(batch_size, batch_size)``.
        """
        positives = torch.arange(self.batch_size)
        for rows, similarity in batch_similarities(self.estimator, self.texts, self.batch_size, batches=count, seed=0):
            if self.posterior is None:
                yield rows, negative_weights(similarity.cpu(), positives=positives, **self.options)
            else:
                weights = posterior_weights(
                    similarity.cpu(), posterior=self.posterior, positives=positives, **self.options
                )
                yield rows, weights
