"""The paper's strongest recipe in two stages: fine-tune with InfoNCE, freeze that model, fine-tune again guided by it.

    python examples/two_stage.py src --test-packages mypackage --output output/two-stage

The teacher is what a user could have deployed already; the second stage starts again from the base model and pushes
away less what the teacher finds relevant.
"""

import argparse
from pathlib import Path

from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from st_softinfonce import SoftInfoNCELoss, get_estimator
from st_softinfonce.data import mine_pairs, split_by_package


def fine_tune(model, train, loss, output, arguments):
    SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(output / "checkpoints"),
            max_steps=arguments.steps,
            per_device_train_batch_size=arguments.batch_size,
            learning_rate=2e-5,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=train,
        loss=loss,
    ).train()
    model.save_pretrained(str(output))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, help="source trees to mine")
    parser.add_argument("--test-packages", nargs="+", required=True, help="packages to keep out of training")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=1000, help="of each stage (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("output/two-stage"), help="default: %(default)s")
    arguments = parser.parse_args()
    if missing := [str(path) for path in arguments.paths if not Path(path).exists()]:
        parser.error(f"PATH must exist, got {missing[0]!r}: check its spelling.")

    pairs = split_by_package(mine_pairs(arguments.paths), arguments.test_packages, drop_leaks=True)
    train = pairs["train"].select_columns(["query", "code"])

    # Without an estimator it is InfoNCE.
    model = SentenceTransformer(arguments.model)
    fine_tune(model, train, SoftInfoNCELoss(model, estimator=None), arguments.output / "teacher", arguments)

    teacher = get_estimator("trained-model", model=arguments.output / "teacher", table=arguments.output / "table")
    model = SentenceTransformer(arguments.model)
    teacher.precompute(train, model)
    fine_tune(model, train, SoftInfoNCELoss(model, teacher), arguments.output / "student", arguments)
    print(f"SentenceTransformer({str(arguments.output / 'student')!r})")


if __name__ == "__main__":
    main()
