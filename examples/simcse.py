"""Weigh negatives by SimCSE, the paper's encoder of queries: train it on your queries, freeze it, let it guide.

    python examples/simcse.py src other-project --model NAME_OR_FOLDER --output output/simcse

The encoder learns from the queries of all languages alone, without labels: each is its own positive, and dropout makes
the difference. Queries that say the same in other words are then pushed away less. It needs a transformer with
dropout; a text is encoded once, before training.
"""

import argparse
from pathlib import Path

from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from st_softinfonce import SimCSEEstimator, SoftInfoNCELoss
from st_softinfonce.data import mine_pairs
from st_softinfonce.estimators import train_simcse


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, help="source trees to mine")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="default: %(default)s")
    parser.add_argument("--base-encoder", help="what SimCSE starts from (default: the model)")
    parser.add_argument("--steps", type=int, default=1000, help="of each training (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("output/simcse"), help="default: %(default)s")
    arguments = parser.parse_args()
    if missing := [str(path) for path in arguments.paths if not path.exists()]:
        parser.error(f"PATH must exist, got {missing[0]!r}: check its spelling.")

    train = mine_pairs(arguments.paths).select_columns(["query", "code"])

    encoder = train_simcse(
        train["query"],
        arguments.base_encoder or arguments.model,
        output_dir=arguments.output / "checkpoints",
        max_steps=arguments.steps,
        batch_size=256,
    )
    encoder.save_pretrained(str(arguments.output / "encoder"))

    model = SentenceTransformer(arguments.model)
    estimator = SimCSEEstimator(arguments.output / "encoder", table=arguments.output / "table")
    estimator.precompute(train, model)
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
        loss=SoftInfoNCELoss(model, estimator),
    ).train()
    model.save_pretrained(str(arguments.output / "model"))
    print(f"SentenceTransformer({str(arguments.output / 'model')!r})")


if __name__ == "__main__":
    main()
