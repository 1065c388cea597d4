"""Train with mined hard negatives, among which false negatives are most frequent, and weigh those too.

    python examples/hard_negatives.py src --model NAME_OR_FOLDER --output output/hard-negatives

`mine_hard_negatives` of sentence-transformers finds the functions that the model confuses with a query's own. Each is
the positive of another query: told which one (`KnownQueries`), BM25 judges it by that query, and what says the same
is pushed away less. Without it, mined negatives would be left alone.
"""

import argparse
from pathlib import Path

from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.util import mine_hard_negatives

from st_softinfonce import KnownQueries, SoftInfoNCELoss
from st_softinfonce.data import mine_pairs


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, help="source trees to mine")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="default: %(default)s")
    parser.add_argument("--negatives", type=int, default=1, help="for each query (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1000, help="training steps (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("output/hard-negatives"), help="default: %(default)s")
    arguments = parser.parse_args()
    if missing := [str(path) for path in arguments.paths if not Path(path).exists()]:
        parser.error(f"PATH must exist, got {missing[0]!r}: check its spelling.")

    pairs = mine_pairs(arguments.paths).select_columns(["query", "code"])
    model = SentenceTransformer(arguments.model)
    train = mine_hard_negatives(
        pairs, model, num_negatives=arguments.negatives, range_max=50, output_format="n-tuple", verbose=False
    )
    known = KnownQueries(dict(zip(pairs["code"], pairs["query"], strict=True)), model)
    print(f"{len(train):,} of {len(pairs):,} pairs have {arguments.negatives} hard negatives")

    SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(arguments.output / "checkpoints"),
            max_steps=arguments.steps,
            per_device_train_batch_size=arguments.batch_size,
            learning_rate=2e-5,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=train,
        loss=SoftInfoNCELoss(model, estimator="bm25", known_queries=known),
    ).train()
    model.save_pretrained(str(arguments.output / "model"))
    print(f"SentenceTransformer({str(arguments.output / 'model')!r})")


if __name__ == "__main__":
    main()
