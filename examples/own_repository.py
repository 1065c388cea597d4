"""From your own checkout to a code-search model fine-tuned on it, with what that gains and how sure it is.

    python examples/own_repository.py PATH [PATH ...]
    python examples/own_repository.py PATH --private --teacher LARGER_MODEL
    python examples/search.py "open a connection" --model output/own-repository/model --code PATH

Documented functions become pairs. Some packages are held out (of a single package folders, or else files, which is
said): their documentation asks, and all functions, documented or not, are candidates. The same model is trained
twice on the same batches, with InfoNCE and with a treatment, and stands beside BM25. Both models are saved.
Of a large repository 1,000 queries and 20,000 further candidates are drawn, so that measuring takes minutes.
"""

import argparse
import contextlib
import io
import json
import math
import os
import re
import sys
import warnings
from pathlib import Path

if not sys.stderr.isatty():  # progress bars are for terminals; libraries read this when they are imported
    os.environ |= dict.fromkeys(("TQDM_DISABLE", "HF_DATASETS_DISABLE_PROGRESS_BARS"), "1")

import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sentence_transformers.util import mine_hard_negatives
from transformers import PrinterCallback

from st_softinfonce import Distill, SoftInfoNCELoss, TrainedModelEstimator
from st_softinfonce.data import MiningReport, mine_pairs, split_by_origin, split_by_package
from st_softinfonce.data.mining_report import ENOUGH_PAIRS, advice_on
from st_softinfonce.model_card import add_mteb_results, hide_training_texts
from st_softinfonce.tasks import bm25_rows, evaluate_rows, mean_interval, task_from_pairs

METRICS = ("mrr_at_1000_duplicates", "ndcg_at_10", "recall_at_10")  # the first is what is printed
LIMITS = ("min_query_tokens", "max_query_tokens", "min_code_lines", "max_file_bytes")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="source trees to mine")
    parser.add_argument("--language", action="append", help="mine this one; repeat for several (default: all)")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="default: %(default)s")
    parser.add_argument("--estimator", default="bm25", help="what weighs the negatives (default: %(default)s)")
    parser.add_argument("--teacher", help="instead: a larger model that mines negatives, and whose ranking is learnt")
    parser.add_argument("--negatives", type=int, default=2, help="mined by the teacher (default: %(default)s)")
    parser.add_argument("--test-share", type=float, default=0.2, help="of the pairs (default: %(default)s)")
    parser.add_argument("--test-packages", nargs="+", metavar="NAME", help="hold out these instead of a share")
    parser.add_argument("--most-queries", type=int, default=1000, help="of the test (default: %(default)s)")
    parser.add_argument("--most-candidates", type=int, default=20_000, help="besides theirs (default: %(default)s)")
    parser.add_argument("--min-pairs", type=int, default=ENOUGH_PAIRS, help="refuse fewer (default: %(default)s)")
    for name in LIMITS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="as for mine_pairs")
    parser.add_argument("--steps", type=int, help="of each training (default: two passes over the pairs, 50 to 500)")
    parser.add_argument("--batch-size", type=int, default=32, help="pairs a step (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=128, help="cut texts for the time being (default: 128)")
    parser.add_argument("--private", action="store_true", help="keep all texts out of the models' cards")
    parser.add_argument("--output", type=Path, default=Path("output/own-repository"), help="default: %(default)s")
    arguments = parser.parse_args()
    if missing := [str(path) for path in arguments.paths if not path.exists()]:
        parser.error(f"PATH must exist, got {missing[0]!r}: check its spelling.")
    if not 0 < arguments.test_share < 1:
        parser.error(f"--test-share must be between 0 and 1, got {arguments.test_share}")
    return arguments


def load(name, max_tokens):
    try:
        model = SentenceTransformer(name)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{name} cannot be loaded: {error}\nWithout a network, give a model's folder.") from error
    longest = model.max_seq_length
    if longest is None or max_tokens < longest < math.inf:  # static models take any length
        model.max_seq_length = max_tokens
    return model, longest


def split(pairs, arguments):
    if arguments.test_packages:
        return split_by_package(pairs, arguments.test_packages, drop_leaks=True), "packages"
    try:
        return split_by_origin(pairs, arguments.test_share, drop_leaks=True)
    except ValueError as error:
        raise SystemExit(f"{error}") from error


def fine_tune(model, train, loss, arguments):
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(arguments.output / "checkpoints"),
            max_steps=arguments.steps or min(500, max(50, 2 * len(train) // arguments.batch_size)),
            per_device_train_batch_size=arguments.batch_size,
            learning_rate=5e-3 if isinstance(model[0], StaticEmbedding) else 2e-5,
            warmup_steps=5,
            bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
            dataloader_drop_last=True,
            dataloader_pin_memory=torch.cuda.is_available(),
            disable_tqdm=not sys.stderr.isatty(),
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
    model, longest = load(arguments.model, arguments.max_tokens)
    cut = model.max_seq_length != longest
    report = MiningReport()
    warnings.filterwarnings("ignore", message="No pairs found")  # what to do is said below
    limits = {name: value for name in LIMITS if (value := getattr(arguments, name)) is not None}
    rows = mine_pairs(arguments.paths, languages=arguments.language, undocumented=True, report=report, **limits)
    print(report)
    if report.functions_kept < arguments.min_pairs:
        # Once more, to learn why the others are no pairs.
        mine_pairs(arguments.paths, languages=arguments.language, report=report, **limits)
        advice = advice_on(report, arguments.min_pairs)
        if len(rows):
            search = f'python examples/search.py "question" --model {arguments.model} --code {arguments.paths[0]}'
            advice += [f"To search {len(rows):,} functions with the model as it is, without training:", search]
        raise SystemExit(re.sub("|".join(LIMITS), lambda m: "--" + m[0].replace("_", "-"), "\n".join(advice)))
    data, level = split(rows.filter(lambda query: query != "", input_columns="query"), arguments)
    train, test = (data[side].shuffle(seed=12) for side in ("train", "test"))
    train, test = train.select_columns(["query", "code"]), test.take(min(len(test), arguments.most_queries))
    if len(train) < 2 * arguments.batch_size:
        raise SystemExit(
            f"{len(train)} training pairs make no two batches of {arguments.batch_size}: lower --batch-size or "
            "--test-share."
        )
    languages = set(test["language"])
    corpus = rows.filter(lambda language: language in languages, input_columns="language").shuffle(seed=12)
    corpus = corpus.take(min(len(corpus), arguments.most_candidates))
    task = task_from_pairs(test, name="OwnRepository", corpus=corpus)
    print(f"{len(train):,} training pairs, {len(test):,} test pairs from other {level}")

    label, estimator, treatment = f"Soft-InfoNCE, {arguments.estimator}", arguments.estimator, None
    if arguments.teacher:
        teacher, _ = load(arguments.teacher, arguments.max_tokens)
        with contextlib.redirect_stderr(
            sys.stderr if sys.stderr.isatty() else io.StringIO()
        ):  # its bars know no pipes
            train = mine_hard_negatives(
                train, teacher, num_negatives=arguments.negatives, range_max=50, output_format="n-tuple", verbose=False
            )
        label, estimator, treatment = "Distill", TrainedModelEstimator(teacher, normalize=True), Distill(share=0.5)

    first, before = evaluate_rows(model, task)
    ranks = {"BM25": bm25_rows(task), "before": before}
    for name, folder in (("InfoNCE", "infonce"), (label, "model")):
        model, _ = load(arguments.model, arguments.max_tokens)
        loss = SoftInfoNCELoss(model, None) if name == "InfoNCE" else SoftInfoNCELoss(model, estimator, treatment)
        fine_tune(model, train, loss, arguments)
        result, ranks[name] = evaluate_rows(model, task)
        add_mteb_results(model, after=result, before=first, metrics=METRICS)
        if arguments.private:
            hide_training_texts(model)
        if cut:
            model.max_seq_length = longest  # whoever loads it shall read whole functions again
        model.save_pretrained(str(arguments.output / folder))

    scores, shown = {}, {}
    for language in sorted(languages):
        values = {name: [own[1] for own in found[language].values()] for name, found in ranks.items()}
        candidates = len(task.table(language, "test")["corpus"])
        print(f"\n{language}: MRR of {len(values[label])} queries among {candidates:,} candidates, with 95% intervals")
        for name, of_queries in values.items():
            scores[f"{language}, {name}"] = found = mean_interval(of_queries)
            print(f"    {name:32}{found.mean:7.3f} [{found.low:.3f}, {found.high:.3f}]")
        for name in ("BM25", "before", "InfoNCE"):
            differences = [one - other for one, other in zip(values[label], values[name], strict=True)]
            scores[f"{language}, {label} - {name}"] = shown[language, name] = found = mean_interval(differences)
            print(f"    {f'{label} - {name}':32}{found.mean:+7.3f} [{found.low:+.3f}, {found.high:+.3f}]")
    (arguments.output / "results.json").write_text(json.dumps(scores, indent=2) + "\n")

    print(
        f"\nModels: {arguments.output / 'model'} ({label}), {arguments.output / 'infonce'} (InfoNCE). One seed each."
    )
    if level != "packages":
        print(f"WARNING: the test pairs are other {level} of the same packages: what they share with the training")
        print("pairs flatters these scores. Add source trees, or choose with --test-packages.")
    if cut:
        print(f"Texts were cut to {arguments.max_tokens} tokens here (--max-tokens); the saved")
        print(f"models read up to {longest} again.")
    if all(found.low <= 0 <= found.high for (_, name), found in shown.items() if name == "InfoNCE"):
        print("The treatment makes no difference that so few queries show. What has helped elsewhere is a stronger")
        print("model as --teacher; compare several treatments on several seeds with examples/compare_treatments.py.")
    print("Next, with any question:")
    search = f'python examples/search.py "question" --model {arguments.output / "model"} --code {arguments.paths[0]}'
    print(f"{search} --before {arguments.model}")


if __name__ == "__main__":
    main()
