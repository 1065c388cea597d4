"""Train with hard negatives that a stronger model mined, and learn its ranking of them: what has helped most.

    python examples/hard_negatives.py src --teacher LARGER_MODEL --output output/hard-negatives

Mined negatives are often right answers that nobody has labelled. `Distill` makes the teacher's opinion of every
candidate the target, where InfoNCE would push them all away. The teacher encodes each text once, before training.
"""

import argparse
from pathlib import Path

from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.util import mine_hard_negatives

from st_softinfonce import Distill, SoftInfoNCELoss, TrainedModelEstimator
from st_softinfonce.data import mine_pairs


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, help="source trees to mine")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="default: %(default)s")
    parser.add_argument("--teacher", default="sentence-transformers/all-mpnet-base-v2", help="default: %(default)s")
    parser.add_argument("--negatives", type=int, default=4, help="for each query (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1000, help="training steps (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("output/hard-negatives"), help="default: %(default)s")
    arguments = parser.parse_args()
    if missing := [str(path) for path in arguments.paths if not path.exists()]:
        parser.error(f"PATH must exist, got {missing[0]!r}: check its spelling.")

    pairs = mine_pairs(arguments.paths).select_columns(["query", "code"])
    model, teacher = SentenceTransformer(arguments.model), SentenceTransformer(arguments.teacher)
    train = mine_hard_negatives(
        pairs, teacher, num_negatives=arguments.negatives, range_max=50, output_format="n-tuple", verbose=False
    )
    print(f"{len(train):,} of {len(pairs):,} pairs have {arguments.negatives} hard negatives")
    estimator = TrainedModelEstimator(teacher, normalize=True, table=arguments.output / "table")
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
        loss=SoftInfoNCELoss(model, estimator, Distill(share=0.5)),
    ).train()
    model.save_pretrained(str(arguments.output / "model"))
    print(f"SentenceTransformer({str(arguments.output / 'model')!r})")


if __name__ == "__main__":
    main()
