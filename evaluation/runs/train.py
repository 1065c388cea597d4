"""One run: take the pairs, load the base model, make the loss, train, and score on packages that were held out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from datasets import disable_progress_bars

from evaluation.corpus.load import Corpus, check_packages, fingerprint
from evaluation.corpus.other_queries import load_other_queries
from evaluation.runs.base_models import load_model
from evaluation.runs.fit import fit, training_order
from evaluation.runs.losses import labels_of, make_loss
from evaluation.runs.plan import BEST_BY, Config, Plan, teacher_of
from evaluation.runs.score import Scores, make_task, score
from evaluation.runs.teachers import Teachers
from st_softinfonce.tasks import GradedCodeRetrieval


class Bench:
    """What the runs of one process share: the corpus, the teachers made of it, and the tasks.

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
        self.task = lru_cache(maxsize=None)(self._task)

    def plan(self) -> Plan:
        """List the runs of the plan's file on these data."""
        others = {name: fingerprint(pairs) for name, pairs in self.other_queries.items()}
        return Plan(self.config, self.corpus.fingerprint, others)

    def _task(self, name: str, queries: int | None, split: str, train_pairs: int | None) -> GradedCodeRetrieval:
        pairs = self.other_queries.get(name)
        return make_task(self.corpus.splits(name, train_pairs)[split] if pairs is None else pairs, queries, name)


def train_and_score(settings: Mapping[str, Any], bench: Bench) -> tuple[Scores, dict[str, float]]:
    """Make one run, of the settings of a :class:`~evaluation.runs.plan.Run`.

    Returns:
        Scores, with the duplicates-aware MRR on each set of other queries, and the seconds that preparing, training
        and evaluating took.

    Raises:
        NotApplicable: The row has no meaning here.
        UsageError: Training and held-out pairs share a package.
    """
    seconds: dict[str, float] = {}
    start = time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal start
        now = time.perf_counter()
        seconds[stage], start = round(now - start, 2), now

    language, regime, limits = settings["language"], settings["regime"], settings["corpus"]
    split = "validation" if settings["stage"] == "tune" else "test"
    splits = bench.corpus.splits(language, limits["train_pairs"])
    check_packages({"train": splits["train"], "held-out pairs": splits[split]}, language)
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
        lap("prepare")
        options = {"learning_rate": settings["learning_rate"], "bf16": settings["bf16"]}
        fit(model, loss, pairs.select(order), **batches, **options)
        lap("train")
    task = bench.task(language, limits["queries"], split, limits["train_pairs"])
    scores = score(model, task, batch_size=bench.batch_size)
    for name in settings.get("other_queries", ()):
        other = score(model, bench.task(name, None, split, None), batch_size=bench.batch_size)
        scores.means[name], scores.values[name] = other.means[BEST_BY], other.values[BEST_BY]
    lap("evaluate")
    return scores, seconds
