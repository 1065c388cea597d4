"""One run: take the pairs, load the base model, make the loss, train, and score on packages that were held out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from datasets import disable_progress_bars

from evaluation.corpus.load import Corpus, check_packages, fingerprint
from evaluation.corpus.other_queries import load_other_queries
from evaluation.runs.base_models import load_model
from evaluation.runs.fit import fit, training_order
from evaluation.runs.losses import labels_of, make_loss
from evaluation.runs.plan import BEST_BY, Config, Plan, teacher_of
from evaluation.runs.score import Scores, score
from evaluation.runs.teachers import Teachers


class Bench:
    """What the runs of one process share: the corpus, and the teachers made of it.

    Args:
        config: The plan's file.
        output: Teachers and mined negatives go to its folder ``cache``.
        folder: Of the corpus; ``None`` takes the file's.
    """

    def __init__(self, config: Config, output: Path, folder: str | None = None) -> None:
        disable_progress_bars()
        self.device: str | None = config.machine.get("device")
        self.batch_size: int = config.machine.get("evaluation_batch_size", 128)
        self.corpus = Corpus(folder or config.corpus["folder"], config.corpus.get("candidates"))
        others = config.corpus.get("other_queries")
        self.other_queries = load_other_queries(others) if others else {}
        self.config = config
        self.teachers = Teachers(output / "cache", self.corpus, device=self.device, batch_size=self.batch_size)

    def plan(self) -> Plan:
        """List the runs of the plan's file on these data."""
        others = {name: fingerprint(pairs) for name, pairs in self.other_queries.items()}
        return Plan(self.config, self.corpus.fingerprint, others)


def train_and_score(settings: Mapping[str, Any], bench: Bench) -> tuple[Scores, dict[str, float]]:
    """Make one run.

    Args:
        settings: Of a :class:`~evaluation.runs.plan.Run`.
        bench: Corpus and teachers.

    Returns:
        Scores, with the duplicates-aware MRR on each set of other queries, and the seconds that preparing, training
        and evaluating took.

    Raises:
        NotApplicable: The row has no meaning here.
        UsageError: Training and held-out pairs share a package.
    """
    times = {"start": time.perf_counter()}
    language, regime = settings["language"], settings["regime"]
    splits = bench.corpus.splits(language, settings["corpus"]["train_pairs"])
    held_out = splits["validation" if settings["stage"] == "tune" else "test"]
    check_packages({"train": splits["train"], "held-out pairs": held_out}, language)

    if "loss" not in settings["row"] and "estimator" in settings["row"]:  # the teacher itself
        model = bench.teachers.load(teacher_of(settings["row"]["estimator"]), settings)
    else:
        model = load_model(settings["model"], bench.device)
    if "loss" in settings["row"]:
        pairs = bench.corpus.training_pairs(settings)
        if regime.get("negatives"):
            pairs = bench.teachers.with_negatives(pairs, settings)
        loss = make_loss(model, pairs, settings, bench.teachers)
        labels = labels_of(pairs, settings, bench.teachers)
        if labels is not None:
            pairs = pairs.add_column("label", labels)
        steps = max(1, round(regime["epochs"] * len(pairs) / regime["batch_size"]))
        batches = {"batch_size": regime["batch_size"], "seed": settings["seed"]}
        order = training_order(pairs, steps=steps, group_by=regime.get("group_by"), **batches)
        times["prepare"] = time.perf_counter()

        learning_rate, bf16 = settings["learning_rate"], settings["bf16"]
        fit(model, loss, pairs.select(order), learning_rate=learning_rate, bf16=bf16, **batches)
        times["train"] = time.perf_counter()

    scores = score(model, held_out, settings["corpus"]["queries"], language, batch_size=bench.batch_size)
    for name in settings.get("other_queries", ()):
        other = score(model, bench.other_queries[name], None, name, batch_size=bench.batch_size)
        scores.means[name], scores.values[name] = other.means[BEST_BY], other.values[BEST_BY]
    times["evaluate"] = time.perf_counter()
    ends = list(times.values())
    spent = [end - start for start, end in pairwise(ends)]
    return scores, {stage: round(seconds, 2) for stage, seconds in zip(list(times)[1:], spent, strict=True)}
