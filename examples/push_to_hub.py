"""Fine-tune on your own code, measure before and after with MTEB, and push the model with all of it on its card.

    hf auth login    # or HF_TOKEN in the environment; nothing here asks for it or prints it
    python examples/push_to_hub.py src --test-packages mypackage --repository user/my-code-search

Whoever loads the model needs sentence-transformers alone. The card shows some of the training pairs, unless --private
keeps them out, and others out of the repository. HF_ENDPOINT chooses another hub than huggingface.co.
"""

import argparse
import tempfile
from pathlib import Path

from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from st_softinfonce import SoftInfoNCELoss
from st_softinfonce.data import mine_pairs, split_by_package
from st_softinfonce.model_card import add_mteb_results, hide_training_texts
from st_softinfonce.tasks import evaluate_rows, task_from_pairs


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, help="source trees to mine")
    parser.add_argument("--test-packages", nargs="+", required=True, help="packages to keep out of training")
    parser.add_argument("--repository", required=True, help="where to push: user/name")
    parser.add_argument("--private", action="store_true", help="create a repository that only you can read")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="default: %(default)s")
    parser.add_argument("--estimator", default="bm25", help="what weighs the negatives (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1000, help="training steps (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="pairs a step (default: %(default)s)")
    arguments = parser.parse_args()
    if missing := [str(path) for path in arguments.paths if not path.exists()]:
        parser.error(f"PATH must exist, got {missing[0]!r}: check its spelling.")

    pairs = split_by_package(mine_pairs(arguments.paths), test_packages=arguments.test_packages)
    task = task_from_pairs(pairs["test"], name="-".join(arguments.test_packages))
    model = SentenceTransformer(arguments.model)
    model.model_card_data.train_datasets = [
        {"name": f"(docstring, code) pairs of {', '.join(map(str, arguments.paths))}"}
    ]
    before, _ = evaluate_rows(model, task)

    with tempfile.TemporaryDirectory() as checkpoints:
        SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=checkpoints,
                max_steps=arguments.steps,
                per_device_train_batch_size=arguments.batch_size,
                learning_rate=2e-5,
                save_strategy="no",
                report_to="none",
            ),
            train_dataset=pairs["train"].select_columns(["query", "code"]),
            loss=SoftInfoNCELoss(model, estimator=arguments.estimator),
        ).train()

    after, _ = evaluate_rows(model, task)
    add_mteb_results(model, after=after, before=before)
    if arguments.private:
        hide_training_texts(model)
    print(model.push_to_hub(arguments.repository, private=arguments.private, exist_ok=True, replace_model_card=True))


if __name__ == "__main__":
    main()
