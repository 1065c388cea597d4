"""From your own checkout to a code-search model that is fine-tuned on it, with its scores before and after.

    python examples/own_repository.py PATH [PATH ...]
    python examples/own_repository.py PATH --test-packages mypackage --model NAME_OR_FOLDER --estimator bm25

Documentation and functions of all languages become pairs. Whole packages are held out as test data; with a single
package it is folders, or else files, of it, which is said. The model and the scores land in the output folder.
"""

import argparse
import json
import math
import warnings
from pathlib import Path

import mteb
import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from st_softinfonce import SoftInfoNCELoss
from st_softinfonce.data import MiningReport, mine_pairs, split_by_package
from st_softinfonce.data.mining_report import ENOUGH_PAIRS, advice_on
from st_softinfonce.tasks import task_from_pairs


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="source trees to mine")
    parser.add_argument("--language", action="append", help="mine this one; repeat for several (default: all)")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="default: %(default)s")
    parser.add_argument("--estimator", default="bm25", help="what weighs the negatives (default: %(default)s)")
    parser.add_argument("--test-share", type=float, default=0.1, help="of the pairs (default: %(default)s)")
    parser.add_argument("--test-packages", nargs="+", metavar="NAME", help="hold out these instead of a share")
    parser.add_argument("--min-pairs", type=int, default=ENOUGH_PAIRS, help="refuse fewer (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="training steps (default: one pass over the pairs, at least 100)")
    parser.add_argument("--batch-size", type=int, default=32, help="pairs a step (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=128, help="cut texts to this length (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("output/own-repository"), help="default: %(default)s")
    arguments = parser.parse_args()
    if missing := [str(path) for path in arguments.paths if not Path(path).exists()]:
        parser.error(f"PATH must exist, got {missing[0]!r}: check its spelling.")
    if not 0 < arguments.test_share < 1:
        parser.error(f"--test-share must be between 0 and 1, got {arguments.test_share}")
    return arguments


def split(pairs, arguments):
    """Hold out packages; or folders, or else files, where one package holds nearly everything."""
    if arguments.test_packages:
        return split_by_package(pairs, arguments.test_packages)
    paths = [path.split("/") for path in pairs["path"]]
    levels = {
        "packages": pairs["package"][:],
        "folders": ["/".join(path[:-1][:2]) for path in paths],
        "files": ["/".join(path) for path in paths],
    }
    largest = max(2 * arguments.test_share, 0.3) * len(pairs)
    fallback = None
    for level, groups in levels.items():
        grouped = pairs.remove_columns("package").add_column("package", groups)
        try:
            found = split_by_package(grouped, arguments.test_share)
        except ValueError:  # everything would be held out
            continue
        if len(found["test"]) > largest:
            fallback = fallback or found
            continue
        if level != "packages":
            print(f"    WARNING: the test pairs are other {level} of the same packages: what they share with the")
            print("    training pairs flatters the scores. Add source trees, or choose with --test-packages.")
        return found
    if fallback is None:
        raise SystemExit(f"{len(pairs)} pairs in {len(set(levels['files']))} files cannot be split: add source trees.")
    return fallback


def evaluate(model, task):
    # Without mteb's cache: it would mistake the fine-tuned model for the one it started from.
    result = mteb.evaluate(model, tasks=[task], cache=None, co2_tracker=False, show_progress_bar=False)
    return {row["hf_subset"]: row["mrr_at_1000"] for row in result.task_results[0].scores["test"]}


def main():
    arguments = parse_arguments()
    warnings.filterwarnings("ignore", category=FutureWarning, module="mteb")  # mteb's own use of a renamed method
    try:
        model = SentenceTransformer(arguments.model, device=None if torch.cuda.is_available() else "cpu")
    except OSError as error:
        raise SystemExit(f"--model {arguments.model}: {error}\nWithout a network, give a folder.") from error
    longest = model.max_seq_length
    if longest is None or arguments.max_tokens < longest < math.inf:  # static models take any length
        model.max_seq_length = arguments.max_tokens

    report = MiningReport()
    pairs = mine_pairs(arguments.paths, languages=arguments.language, report=report)
    print(report)
    if advice := advice_on(report, arguments.min_pairs):
        raise SystemExit("\n".join(advice))
    data = split(pairs, arguments)
    train = data["train"].select_columns(["query", "code"]).shuffle(seed=12)
    print(f"{len(train):,} training pairs, {len(data['test']):,} test pairs")
    if len(train) < 2 * arguments.batch_size:
        raise SystemExit(f"They make no two batches of {arguments.batch_size}: lower --batch-size or --test-share.")

    task = task_from_pairs(data["test"], name="OwnRepository")
    before = evaluate(model, task)
    loss = SoftInfoNCELoss(model, estimator=arguments.estimator)
    training = SentenceTransformerTrainingArguments(
        output_dir=str(arguments.output / "checkpoints"),
        max_steps=arguments.steps or max(100, len(train) // arguments.batch_size),
        per_device_train_batch_size=arguments.batch_size,
        learning_rate=2e-5,
        warmup_steps=10,
        bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        dataloader_drop_last=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
    )
    SentenceTransformerTrainer(model=model, args=training, train_dataset=train, loss=loss).train()
    after = evaluate(model, task)
    model.save_pretrained(str(arguments.output / "model"))
    scores = {"mrr_at_1000": {"before": before, "after": after}, "loss": loss.get_config_dict()}
    (arguments.output / "results.json").write_text(json.dumps(scores, indent=2) + "\n")

    print(f"\n{'MRR':16}{'before':>8}{'after':>8}{'change':>8}")
    for language in before:
        change = after[language] - before[language]
        print(f"{language:16}{before[language]:8.3f}{after[language]:8.3f}{change:+8.3f}")
    print(f"\nModel: SentenceTransformer({str(arguments.output / 'model')!r})")


if __name__ == "__main__":
    main()
