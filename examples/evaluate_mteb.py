"""Evaluate models side by side on your own code, with MTEB: before and after a fine-tuning, or one against another.

    python examples/evaluate_mteb.py src --model sentence-transformers/all-MiniLM-L6-v2 output/own-repository/model

The documented functions are queries, all functions are candidates. The scores say something about new code only for
models that were not trained on these pairs: name packages that were held out.
"""

import argparse
import json
from pathlib import Path

from sentence_transformers import SentenceTransformer

from st_softinfonce.data import mine_pairs
from st_softinfonce.tasks import evaluate_rows, mean_interval, task_from_pairs

METRICS = ("mrr_at_1000_duplicates", "ndcg_at_10", "recall_at_10")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, help="source trees to mine")
    parser.add_argument("--model", nargs="+", required=True, help="names or folders; differences are to the first")
    parser.add_argument("--packages", nargs="+", help="ask for these alone, e.g. those held out (default: all)")
    parser.add_argument("--output", type=Path, default=Path("output/scores.json"), help="default: %(default)s")
    arguments = parser.parse_args()
    if missing := [str(path) for path in arguments.paths if not path.exists()]:
        parser.error(f"PATH must exist, got {missing[0]!r}: check its spelling.")

    rows = mine_pairs(arguments.paths, undocumented=True)
    wanted = set(arguments.packages or rows["package"])
    pairs = rows.filter(lambda query, package: query and package in wanted, input_columns=["query", "package"])
    if not len(pairs):
        parser.error(f"no pairs in the packages {arguments.packages}: choose from {sorted(set(rows['package']))}")
    asked = set(pairs["language"])
    corpus = rows.filter(lambda language: language in asked, input_columns="language")
    task = task_from_pairs(pairs, name="MyCode", corpus=corpus)  # once: all models see the same
    scores, ranks = {}, {}
    for name in arguments.model:
        result, ranks[name] = evaluate_rows(SentenceTransformer(name), task)
        scores[name] = {
            entry["hf_subset"]: {metric: entry[metric] for metric in METRICS}
            for entry in result.task_results[0].scores["test"]
        }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(scores, indent=2) + "\n")

    first = arguments.model[0]
    for language in sorted(asked):
        print(f"\n{language:40}" + "".join(f"{metric:>24}" for metric in (*METRICS, "MRR - the first's")))
        for name in arguments.model:
            own, other = ([rank for _, rank in ranks[model][language].values()] for model in (name, first))
            mean, low, high = mean_interval([one - two for one, two in zip(own, other, strict=True)])
            cells = "".join(f"{scores[name][language][metric]:24.3f}" for metric in METRICS)
            print(f"{name[-40:]:40}{cells}  {mean:+.3f} [{low:+.3f}, {high:+.3f}]")


if __name__ == "__main__":
    main()
