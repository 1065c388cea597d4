"""Evaluate models side by side on your own code, with MTEB: before and after a fine-tuning, or one against another.

    python examples/evaluate_mteb.py src --model sentence-transformers/all-MiniLM-L6-v2 output/own-repository/model

The pairs become one retrieval task with a subset a language, in which every function is a candidate. The scores say
something about new code only for models that were not trained on these pairs: name packages that were held out.
"""

import argparse
import json
import warnings
from pathlib import Path

import mteb
from sentence_transformers import SentenceTransformer

from st_softinfonce.data import mine_pairs
from st_softinfonce.tasks import task_from_pairs

METRICS = ("mrr_at_1000", "ndcg_at_10", "recall_at_10")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, help="source trees to mine")
    parser.add_argument("--model", nargs="+", required=True, help="names or folders")
    parser.add_argument("--packages", nargs="+", help="only these, e.g. those held out (default: all)")
    parser.add_argument("--output", type=Path, default=Path("output/scores.json"), help="default: %(default)s")
    arguments = parser.parse_args()
    if missing := [str(path) for path in arguments.paths if not Path(path).exists()]:
        parser.error(f"PATH must exist, got {missing[0]!r}: check its spelling.")
    warnings.filterwarnings("ignore", category=FutureWarning, module="mteb")  # mteb's own use of a renamed method

    pairs = mine_pairs(arguments.paths)
    if arguments.packages:
        pairs = pairs.filter(lambda package: package in arguments.packages, input_columns="package")
        if not len(pairs):
            parser.error(f"no pairs in the packages {arguments.packages}")
    task = task_from_pairs(pairs, name="MyCode")  # once: all models see the same
    scores = {}
    for name in arguments.model:
        model = SentenceTransformer(name)
        # Without mteb's cache: a model and what was fine-tuned from it have the same name for it.
        result = mteb.evaluate(model, tasks=[task], cache=None, co2_tracker=False, show_progress_bar=False)
        scores[name] = {
            row["hf_subset"]: {metric: row[metric] for metric in METRICS}
            for row in result.task_results[0].scores["test"]
        }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(scores, indent=2) + "\n")

    for subset in scores[arguments.model[0]]:
        print(f"\n{subset:40}" + "".join(f"{metric:>14}" for metric in METRICS))
        for name in arguments.model:
            print(f"{name[-40:]:40}" + "".join(f"{scores[name][subset][metric]:14.3f}" for metric in METRICS))


if __name__ == "__main__":
    main()
