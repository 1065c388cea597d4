"""Why the gain is what it is: where InfoNCE pushes, and how much of that the weights change.

    python -m evaluation push cpu                               # batches of 64 and 1,024 of every language
    python -m evaluation push cpu --batch-sizes 256 --languages python

InfoNCE pushes query i away from its negatives, from negative j by ``p[i, j]``, the softmax of its scores: that is the
gradient's part of the negative, so that the shares of ``p`` are the shares of what training does to them. Soft-InfoNCE
has ``p`` of the weighted softmax instead. The scores are those of the base model and of the plan's model trained with
InfoNCE, the relevant negatives are those that documentation and duplicates show (evaluation/runs/oracle.py). Writes
evaluation/results/push.json.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from torch import Tensor

from evaluation.environment import OUTPUT, RESULTS, find_config, write_json
from evaluation.runs.base_models import load_model
from evaluation.runs.losses import NotApplicable
from evaluation.runs.oracle import relevance_groups
from evaluation.runs.plan import Config, Plan
from evaluation.runs.train import Bench
from evaluation.studies.weights import Weigher, soft_runs

SCALE = 20.0
QUERIES = 4096  # so that a mean is over as many queries whatever the batch size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("config", metavar="PLAN", help="a TOML file, or the name of one in evaluation/configs")
    parser.add_argument("--corpus", help="folder or name of the corpus (default: as the file says)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where the runs are (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: evaluation/results")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 1024], help="default: 64 1024")
    parser.add_argument("--languages", nargs="+", metavar="NAME", help="of those that the file names")


def run(given: argparse.Namespace) -> int:
    """Measure, and write the results; `report` makes a table of them."""
    config = Config.read(find_config(given.config))
    config.keep(languages=given.languages)
    bench = Bench(config, given.output / config.name, given.corpus)
    plan = Plan(config, bench.corpus.fingerprint)
    entries = []
    for size in given.batch_sizes:
        for language in dict.fromkeys(cell.language for cell in plan.cells()):
            entries += measure(bench, plan, language, size)
            print(f"{language}, batches of {size}: {len(entries)} entries", flush=True)
    options = ["--batch-sizes", *map(str, given.batch_sizes)]
    options += ["--languages", *given.languages] if given.languages else []
    command = " ".join(["python -m evaluation push", config.name, *options])
    write_json(given.results / "push.json", {"command": command, "entries": entries})
    return 0


def measure(bench: Bench, plan: Plan, language: str, batch_size: int) -> list[dict[str, Any]]:
    """Measure the pushes of one language's training pairs in random batches.

    Args:
        bench: Has the pairs and teachers.
        plan: The plan.
        language: Which.
        batch_size: Pairs a batch.

    Returns:
        An entry a state of the model (``"base"``, ``"trained"``) and row.
    """
    runs = soft_runs(plan, language)
    settings = next(iter(runs.values())).settings
    recipe = plan.config.content["models"][settings["model"]["name"]]["trained-model"]
    pairs = bench.corpus.training_pairs(settings)
    groups = torch.from_numpy(relevance_groups(pairs))
    trained = bench.teachers.load("trained-model", {**settings, "teachers": {"trained-model": recipe}})
    scores_of = {
        "base": _Scores(load_model(settings["model"], bench.device), pairs),
        "trained": _Scores(trained, pairs),
    }
    entries = []
    for name, one in runs.items():
        try:
            weigher = Weigher.of(bench, one, batch_size)
        except NotApplicable:
            continue
        sums: dict[str, dict[str, float]] = {state: defaultdict(float) for state in scores_of}
        queries = with_relevant = 0
        for rows, weights in weigher.batches(max(1, QUERIES // batch_size)):
            relevant = groups[rows, None] == groups[rows]
            relevant.fill_diagonal_(False)
            queries += len(rows)
            with_relevant += int(relevant.any(dim=1).sum())
            for state, scores in scores_of.items():
                batch = scores.of(rows)
                for key, value in compare_pushes(pushes(batch), pushes(batch, weights), relevant).items():
                    sums[state][key] += value
        for state, total in sums.items():
            others = total["plain"] - total["plain_relevant"]
            left = total["weighted_relevant"] / total["plain_relevant"] if total["plain_relevant"] else None
            entries.append(
                {
                    "language": language,
                    "batch_size": batch_size,
                    "queries": queries,
                    "state": state,
                    "row": name,
                    "queries_with_a_relevant_negative": with_relevant / queries,
                    "share_on_relevant": total["plain_relevant"] / total["plain"],
                    "relevant_left": left,
                    "others_left": (total["weighted"] - total["weighted_relevant"]) / others,
                    "moved": total["moved"] / total["batches"],
                }
            )
    return entries


def pushes(scores: Tensor, weights: Tensor | None = None) -> Tensor:
    """Compute how hard each negative is pushed away: the gradient of the query's loss by the negative's score.

    Args:
        scores: ``(N, N)``, the positives on the diagonal.
        weights: Of the negatives, ``(N, N)``; ``None`` is InfoNCE.

    Returns:
        ``(N, N)``, 0 on the diagonal.
    """
    logits = scores if weights is None else scores + weights.log()
    return logits.softmax(dim=1).fill_diagonal_(0.0)


def compare_pushes(plain: Tensor, weighted: Tensor, relevant: Tensor) -> dict[str, float]:
    """Sum up what weights do to the pushes of a batch.

    Args:
        plain: Of InfoNCE, ``(N, N)``.
        weighted: With weights.
        relevant: Bool, the diagonal not among them.

    Returns:
        Sums, to be added up over batches.
    """
    share = [push / push.sum() for push in (plain, weighted)]
    return {
        "plain": float(plain.sum()),
        "weighted": float(weighted.sum()),
        "plain_relevant": float(plain[relevant].sum()),
        "weighted_relevant": float(weighted[relevant].sum()),
        # Half the sum of the differences between two distributions: the part of the push that goes elsewhere.
        "moved": float((share[0] - share[1]).abs().sum() / 2),
        "batches": 1.0,
    }


class _Scores:
    """A model's scores of any batch of pairs."""

    def __init__(self, model: SentenceTransformer, pairs: Dataset) -> None:
        self.queries, self.documents = (
            model.encode(pairs[column][:], convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False)
            .float()
            .cpu()
            for column in ("query", "code")
        )

    def of(self, rows: list[int]) -> Tensor:
        return SCALE * self.queries[rows] @ self.documents[rows].T
