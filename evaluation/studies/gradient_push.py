"""Why the gain is what it is: where InfoNCE pushes, and how much of that the weights change.

    python -m evaluation push cpu                               # batches of 64 and 1,024 of every language
    python -m evaluation push cpu --batch-sizes 256 --languages python

The gradient of InfoNCE pushes query i away from its negative j by ``p[i, j]``, the softmax of the query's scores; that
of Soft-InfoNCE by the softmax of the weighted scores. Scores come from the base model, and from the plan's model
trained with InfoNCE. Relevant negatives are those that documentation and duplicates show (evaluation/runs/oracle.py).
Writes evaluation/results/push.json.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from evaluation.environment import OUTPUT, RESULTS, find_config, write_result
from evaluation.runs.base_models import load_model
from evaluation.runs.losses import NotApplicable
from evaluation.runs.oracle import relevance_groups
from evaluation.runs.plan import Config, Plan
from evaluation.runs.train import Bench
from evaluation.studies.weights import soft_runs, weigh

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
    """Measure, and write and show the results."""
    config = Config.read(find_config(given.config))
    config.keep(languages=given.languages)
    bench = Bench(config, given.output / config.name, given.corpus)
    plan = bench.plan()
    entries = []
    for size in given.batch_sizes:
        for language in dict.fromkeys(cell.language for cell in plan.cells()):
            entries += measure(bench, plan, language, size)
            print(f"{language}, batches of {size}: {len(entries)} entries", flush=True)
    options = ["--batch-sizes", *map(str, given.batch_sizes)]
    options += ["--languages", *given.languages] if given.languages else []
    command = " ".join(["python -m evaluation push", config.name, *options])
    write_result(given.results / "push.json", {"command": command, "entries": entries}, "push.json")
    return 0


def measure(bench: Bench, plan: Plan, language: str, batch_size: int) -> list[dict[str, Any]]:
    """Measure the pushes of one language's training pairs: an entry a state of the model and row of the plan."""
    runs = soft_runs(plan, language)
    settings = next(iter(runs.values())).settings
    recipe = plan.config.content["models"][settings["model"]["name"]]["trained-model"]
    pairs = bench.corpus.training_pairs(settings)
    groups = torch.from_numpy(relevance_groups(pairs))
    models = {
        "base": load_model(settings["model"], bench.device),
        "trained": bench.teachers.load("trained-model", {**settings, "teachers": {"trained-model": recipe}}),
    }
    embeddings = {
        state: [_embed(model, pairs[name][:]) for name in ("query", "code")] for state, model in models.items()
    }
    entries = []
    for name, run in runs.items():
        try:
            _, batches = weigh(bench, run, batch_size, max(1, QUERIES // batch_size))
        except NotApplicable:
            continue
        sums: dict[str, Counter[str]] = {state: Counter() for state in models}
        for rows, weights in batches:
            relevant = groups[rows, None] == groups[rows]
            relevant.fill_diagonal_(False)
            for state, (queries, documents) in embeddings.items():
                scores = SCALE * queries[rows] @ documents[rows].T
                sums[state].update(compare_pushes(pushes(scores), pushes(scores, weights), relevant))
        for state, total in sums.items():
            others = total["plain"] - total["plain_relevant"]
            left = total["weighted_relevant"] / total["plain_relevant"] if total["plain_relevant"] else None
            entries.append(
                {
                    "language": language,
                    "batch_size": batch_size,
                    "queries": int(total["queries"]),
                    "state": state,
                    "row": name,
                    "queries_with_a_relevant_negative": total["with_relevant"] / total["queries"],
                    "share_on_relevant": total["plain_relevant"] / total["plain"],
                    "relevant_left": left,
                    "others_left": (total["weighted"] - total["weighted_relevant"]) / others,
                    "moved": total["moved"] / total["batches"],
                }
            )
    return entries


def _embed(model: SentenceTransformer, texts: list[str]) -> Tensor:
    found = model.encode(texts, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False)
    return found.float().cpu()


def pushes(scores: Tensor, weights: Tensor | None = None) -> Tensor:
    """Compute how hard each negative is pushed away, ``(N, N)``: the gradient of the query's loss by its score.

    Scores are ``(N, N)``, the positives on the diagonal, where the push is 0; without weights it is InfoNCE's.
    """
    logits = scores if weights is None else scores + weights.log()
    return logits.softmax(dim=1).fill_diagonal_(0.0)


def compare_pushes(plain: Tensor, weighted: Tensor, relevant: Tensor) -> dict[str, float]:
    """Sum up a batch's pushes ``(N, N)`` without and with weights; ``relevant`` tells which negatives are relevant."""
    share = [push / push.sum() for push in (plain, weighted)]
    return {
        "queries": len(relevant),
        "with_relevant": int(relevant.any(dim=1).sum()),
        "plain": float(plain.sum()),
        "weighted": float(weighted.sum()),
        "plain_relevant": float(plain[relevant].sum()),
        "weighted_relevant": float(weighted[relevant].sum()),
        # Half the sum of the differences between two distributions: the part of the push that goes elsewhere.
        "moved": float((share[0] - share[1]).abs().sum() / 2),
        "batches": 1,
    }
