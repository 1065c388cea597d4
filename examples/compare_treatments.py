"""Which treatment helps on your pairs? Train several on the same batches, on several seeds, and see what differs.

    python examples/compare_treatments.py pairs --model NAME_OR_FOLDER --teacher LARGER_MODEL

`pairs` is what `st-softinfonce mine src -o pairs` makes, or a Parquet or JSONL file with the columns query and code;
with package and path, whole packages are held out. The teacher mines the negatives that all rows but one train with.
Differences are to the better InfoNCE row, with 95% intervals from a paired bootstrap over queries, seeds as blocks.
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path

if not sys.stderr.isatty():  # progress bars are for terminals; libraries read this when they are imported
    os.environ |= dict.fromkeys(("TQDM_DISABLE", "HF_DATASETS_DISABLE_PROGRESS_BARS"), "1")

import numpy as np
import torch
from datasets import load_dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sentence_transformers.util import mine_hard_negatives
from tqdm import tqdm
from transformers import PrinterCallback

from st_softinfonce import Distill, KnownQueries, Mask, SoftInfoNCELoss, TrainedModelEstimator
from st_softinfonce.data import split_by_origin
from st_softinfonce.tasks import evaluate_rows, mean_interval, task_from_pairs

BASELINES = ("InfoNCE, random negatives", "InfoNCE")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("pairs", type=Path, help="a folder of mined pairs, or a .parquet or .jsonl file")
    parser.add_argument("--model", required=True, help="the model to train: a transformer or a StaticEmbedding")
    parser.add_argument("--teacher", required=True, help="a stronger model, which mines negatives and judges")
    parser.add_argument("--negatives", type=int, default=4, help="mined for each query (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each row (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="of each training (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="pairs a step (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, help="default: 2e-5, and 5e-3 for a StaticEmbedding")
    parser.add_argument("--max-tokens", type=int, default=128, help="cut texts (default: %(default)s)")
    parser.add_argument("--test-share", type=float, default=0.2, help="held out (default: %(default)s)")
    arguments = parser.parse_args()
    if not arguments.pairs.exists():
        parser.error(f"PAIRS must exist, got {str(arguments.pairs)!r}: check its spelling.")
    if arguments.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {arguments.seeds}")
    return arguments


def load_pairs(path, share):
    """Read pairs, and hold out whole packages; or folders, files or rows, which is said."""
    kind = {".jsonl": "json", ".json": "json"}.get(path.suffix, "parquet")
    source = {"path": str(path)} if path.is_dir() else {"path": kind, "data_files": str(path)}
    try:
        data = load_dataset(**source)
    except (OSError, ValueError) as error:
        raise SystemExit(
            f"{path} holds no pairs ({error}): st-softinfonce mine SOURCES -o PAIRS makes some."
        ) from error
    pairs, further = data["train"], data.get("candidates")
    if not {"query", "code"} <= set(pairs.column_names):
        raise SystemExit(f"PAIRS must have the columns query and code, got {pairs.column_names}: rename them.")
    if {"package", "path"} <= set(pairs.column_names):
        split, level = split_by_origin(pairs, share, drop_leaks=True)
    else:
        split, level = pairs.train_test_split(share, seed=0), "rows, without knowing of their packages"
    if level != "packages":
        print(f"WARNING: what is held out are {level}, which flatters all scores.")
    return split["train"].select_columns(["query", "code"]), split["test"], further


def load_model(name, max_tokens):
    try:
        model = SentenceTransformer(name)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{name} cannot be loaded: {error}\nWithout a network, give a model's folder.") from error
    if not isinstance(model[0], StaticEmbedding):
        model.max_seq_length = min(max_tokens, model.max_seq_length or max_tokens)
    return model


def train_model(model, train, loss, seed, arguments):
    static = isinstance(model[0], StaticEmbedding)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=folder,
                max_steps=arguments.steps,
                per_device_train_batch_size=arguments.batch_size,
                learning_rate=arguments.learning_rate or (5e-3 if static else 2e-5),
                warmup_steps=arguments.steps // 10,
                seed=seed,  # of the order of the pairs too
                bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
                dataloader_drop_last=True,
                dataloader_pin_memory=torch.cuda.is_available(),
                disable_tqdm=True,
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
            ),
            train_dataset=train,
            loss=loss,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def main():
    arguments = parse_arguments()
    train, test, further = load_pairs(arguments.pairs, arguments.test_share)
    if further is not None and "language" in test.column_names:
        asked = set(test["language"])
        further = further.filter(lambda language: language in asked, input_columns="language")
    task = task_from_pairs(test, name="Compare", corpus=further if further else None)
    teacher = load_model(arguments.teacher, arguments.max_tokens)
    with contextlib.redirect_stderr(sys.stderr if sys.stderr.isatty() else io.StringIO()):  # its bars know no pipes
        mined = mine_hard_negatives(
            train, teacher, num_negatives=arguments.negatives, range_max=50, output_format="n-tuple", verbose=False
        )
    if len(mined) < 2 * arguments.batch_size:
        raise SystemExit(f"{len(mined)} pairs with {arguments.negatives} negatives make no two batches: lower these.")
    print(f"{len(mined):,} training pairs with {arguments.negatives} mined negatives each, {len(test):,} test pairs")

    student = load_model(arguments.model, arguments.max_tokens)
    judge = TrainedModelEstimator(teacher, normalize=True)
    judge.precompute(mined, student)
    known = KnownQueries(dict(zip(train["code"], train["query"], strict=True)), student)
    losses = {
        BASELINES[0]: lambda model: SoftInfoNCELoss(model, None),
        BASELINES[1]: lambda model: SoftInfoNCELoss(model, None),
        "Distill(share=0.5)": lambda model: SoftInfoNCELoss(model, judge, Distill(share=0.5)),
        "Mask(margin=0.05, relative=True)": lambda model: SoftInfoNCELoss(
            model, judge, Mask(margin=0.05, relative=True)
        ),
        "Soften, by bm25 (the paper)": lambda model: SoftInfoNCELoss(model, "bm25", known_queries=known),
    }
    ranks = {name: [] for name in ("before", *losses)}
    ranks["before"] = [evaluate_rows(student, task)[1]]
    for seed, name in tqdm([(seed, name) for seed in range(arguments.seeds) for name in losses], desc="Training"):
        model = load_model(arguments.model, arguments.max_tokens)
        rows = mined.select_columns(["query", "code"]) if name == BASELINES[0] else mined
        train_model(model, rows, losses[name](model), seed, arguments)
        ranks[name].append(evaluate_rows(model, task, show_progress=False)[1])

    values = {
        name: np.array([[rank for rows in found.values() for _, rank in rows.values()] for found in of_seeds])
        for name, of_seeds in ranks.items()
    }  # (seeds, queries)
    best = max(BASELINES, key=lambda name: values[name].mean())
    queries, better = values[best].shape[1], {}
    print(f"\nMRR of {queries:,} queries, {arguments.seeds} seeds; differences are to {best}")
    for name, of_seeds in values.items():
        difference = mean_interval(of_seeds - values[best])
        verdict = "better" if difference.low > 0 else "worse" if difference.high < 0 else "undecided"
        print(f"    {name:34}{of_seeds.mean():6.3f}", end="")
        print("" if name == best else "  {:+.3f} [{:+.3f}, {:+.3f}]".format(*difference) + f"  {verdict}")
        if verdict == "better" and name in losses:
            better[name] = difference.mean
    if better:
        name = max(better, key=better.get)
        print(f"\nTake {name}: it gains {better[name]:+.3f}, and its interval is above 0.")
    else:
        print(f"\nStay with {best}: no treatment is shown to be better by so many queries and seeds.")


if __name__ == "__main__":
    main()
