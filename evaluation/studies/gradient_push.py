"""Why the gain is what it is: where InfoNCE pushes, and how much of that the weights change.

    python -m evaluation push cpu                               # batches of 64 and 1,024 of every language
    python -m evaluation push cpu --batch-sizes 256 --languages python
    python -m evaluation push negatives --mined mined-4         # batches with the negatives mined for that regime

The gradient of InfoNCE pushes query i away from its negative j by ``p[i, j]``, the softmax of the query's scores; that
of Soft-InfoNCE by the softmax of the weighted scores. Scores come from the base model, and from the plan's model
trained with InfoNCE. Relevant negatives are those that documentation and duplicates show (evaluation/runs/oracle.py).
With targets the push is the softmax minus the target, and what is pulled closer is not pushed. Writes
evaluation/results/push.json, or push_mined.json.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from evaluation import UsageError
from evaluation.environment import OUTPUT, RESULTS, find_config, write_result
from evaluation.runs.base_models import load_model
from evaluation.runs.losses import NotApplicable, make_estimator, make_treatments
from evaluation.runs.oracle import relevance_groups
from evaluation.runs.plan import TEACHERS, Config, Plan, name_and_options, teacher_of
from evaluation.runs.train import Bench
from evaluation.studies.weights import soft_runs, weigh
from st_softinfonce.treatments import combine

SCALE = 20.0
QUERIES = 4096  # so that a mean is over as many queries whatever the batch size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("config", metavar="PLAN", help="a TOML file, or the name of one in evaluation/configs")
    parser.add_argument("--corpus", help="folder or name of the corpus (default: as the file says)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where the runs are (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: evaluation/results")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 1024], help="default: 64 1024")
    parser.add_argument("--mined", metavar="REGIME", help="measure batches of this regime, with its mined negatives")
    parser.add_argument("--languages", nargs="+", metavar="NAME", help="of those that the file names")


def run(given: argparse.Namespace) -> int:
    """Measure, and write and show the results."""
    config = Config.read(find_config(given.config))
    config.keep(languages=given.languages)
    bench = Bench(config, given.output / config.name, given.corpus)
    plan = bench.plan()
    entries = []
    for language in dict.fromkeys(cell.language for cell in plan.cells()):
        if given.mined:
            entries += measure_mined(bench, plan, language, given.mined)
        else:
            entries += [entry for size in given.batch_sizes for entry in measure(bench, plan, language, size)]
        print(f"{language}: {len(entries)} entries", flush=True)
    options = ["--mined", given.mined] if given.mined else ["--batch-sizes", *map(str, given.batch_sizes)]
    options += ["--languages", *given.languages] if given.languages else []
    command = " ".join(["python -m evaluation push", config.name, *options])
    file = "push_mined.json" if given.mined else "push.json"
    write_result(given.results / file, {"command": command, "entries": entries}, file)
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
                sums[state].update(compare_pushes(pushes(scores), pushes(scores, weights.log()), relevant))
        place = {"language": language, "batch_size": batch_size, "row": name}
        entries += [place | {"state": state} | _summed_up(total) for state, total in sums.items()]
    return entries


def measure_mined(bench: Bench, plan: Plan, language: str, regime: str) -> list[dict[str, Any]]:
    """Measure the pushes in batches with mined negatives, by the model trained with InfoNCE: an entry a row.

    Rows are those of the regime whose teacher compares texts itself (``normalize = true``).
    """
    runs = {
        cell.row: plan.test_runs(cell, {})[0]
        for cell in plan.cells()
        if (cell.language, cell.regime) == (language, regime) and _compares_cosines(plan.config.rows[cell.row])
    }
    if not (runs and plan.config.content["regimes"][regime].get("negatives")):
        raise UsageError(
            f"{plan.config.name} has no rows of regime {regime!r} with mined negatives and a teacher's cosines."
        )
    settings = next(iter(runs.values())).settings
    recipes = plan.config.content["models"][settings["model"]["name"]]
    settings = {**settings, "teachers": {kind: recipes[kind] for kind in TEACHERS if kind in recipes}}
    size = settings["regime"]["batch_size"]
    pairs = bench.teachers.with_negatives(bench.corpus.training_pairs(settings), settings)
    row_of = {code: row for row, code in enumerate(pairs["code"])}
    columns = sorted(name for name in pairs.column_names if name.startswith("negative"))
    negatives = torch.tensor([[row_of[code] for code in pairs[name]] for name in columns]).T
    groups = torch.from_numpy(relevance_groups(pairs))
    model = bench.teachers.load("trained-model", settings)
    queries, documents = (_embed(model, pairs[name][:]) for name in ("query", "code"))
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))[:QUERIES]
    base = load_model(settings["model"], bench.device)
    judged: dict[str, list[Tensor]] = {}  # by teacher
    entries = []
    for name, run in runs.items():
        given = run.settings["row"]["estimator"]
        estimator = make_estimator(given, base, pairs, settings, bench.teachers)
        treatments = make_treatments(run.settings["row"]["treatment"], estimator, pairs, size, base)
        kind = teacher_of(given)
        if kind not in judged:
            teacher = bench.teachers.load(kind, settings)
            judged[kind] = [_embed(teacher, pairs[column][:]) for column in ("query", "code")]
        total: Counter[str] = Counter()
        for rows in order.split(size):
            candidates = torch.cat([rows, negatives[rows].flatten()])
            positives = torch.arange(len(rows))
            relevant = groups[rows, None] == groups[candidates]
            relevant[positives, positives] = False
            scores = SCALE * queries[rows] @ documents[candidates].T
            similarity = judged[kind][0][rows] @ judged[kind][1][candidates].T
            log_weights, targets = combine([(treatments, similarity, None)], positives)
            total.update(compare_pushes(pushes(scores), pushes(scores, log_weights, targets), relevant))
        entries.append(
            {"language": language, "batch_size": f"{size}, {regime}", "row": name, "state": "trained"}
            | _summed_up(total)
        )
    return entries


def _compares_cosines(row: Mapping[str, Any]) -> bool:
    _, estimator = name_and_options(row.get("estimator", ""))
    return bool(estimator.get("normalize") and row.get("treatment") and not row.get("options"))


def _summed_up(total: Mapping[str, float]) -> dict[str, Any]:
    others = total["plain"] - total["plain_relevant"]
    return {
        "queries": int(total["queries"]),
        "queries_with_a_relevant_negative": total["with_relevant"] / total["queries"],
        "share_on_relevant": total["plain_relevant"] / total["plain"],
        "relevant_left": total["weighted_relevant"] / total["plain_relevant"] if total["plain_relevant"] else None,
        "others_left": (total["weighted"] - total["weighted_relevant"]) / others,
        "moved": total["moved"] / total["batches"],
    }


def _embed(model: SentenceTransformer, texts: list[str]) -> Tensor:
    found = model.encode(texts, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False)
    return found.float().cpu()


def pushes(scores: Tensor, log_weights: Tensor | None = None, targets: Tensor | None = None) -> Tensor:
    """Compute how hard each negative is pushed away, ``(N, M)``: the gradient of the query's loss by its score.

    Scores are ``(N, M)``, the positives on the diagonal, where the push is 0; without log weights and targets it is
    InfoNCE's. A negative that is pulled closer is not pushed: 0.
    """
    found = (scores if log_weights is None else scores + log_weights).softmax(dim=1)
    if targets is not None:
        found = (found - targets).clamp(min=0.0)
    return found.fill_diagonal_(0.0)


def compare_pushes(plain: Tensor, weighted: Tensor, relevant: Tensor) -> dict[str, float]:
    """Sum up a batch's pushes ``(N, M)`` without and with a treatment, and those on relevant negatives."""
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
