"""Embeddings that can be cut short, from batches larger than the memory: Matryoshka around the cached loss.

    python examples/matryoshka_cached.py src --model NAME_OR_FOLDER --batch-size 512 --dimensions 384 128 64

A batch of 512 takes the memory of `--mini-batch-size` texts, at the price of embedding each twice. The weights are
made once a step, whatever the number of dimensions.
"""

import argparse
from pathlib import Path

from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss

from st_softinfonce import CachedSoftInfoNCELoss
from st_softinfonce.data import mine_pairs


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, help="source trees to mine")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="default: %(default)s")
    parser.add_argument("--dimensions", type=int, nargs="+", default=[384, 256, 128, 64], help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=200, help="training steps (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=512, help="pairs a step (default: %(default)s)")
    parser.add_argument("--mini-batch-size", type=int, default=32, help="texts at a time (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("output/matryoshka"), help="default: %(default)s")
    arguments = parser.parse_args()
    if missing := [str(path) for path in arguments.paths if not Path(path).exists()]:
        parser.error(f"PATH must exist, got {missing[0]!r}: check its spelling.")

    train = mine_pairs(arguments.paths).select_columns(["query", "code"])
    model = SentenceTransformer(arguments.model)
    loss = CachedSoftInfoNCELoss(model, estimator="bm25", mini_batch_size=arguments.mini_batch_size)
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
        loss=MatryoshkaLoss(model, loss, matryoshka_dims=arguments.dimensions),
    ).train()
    model.save_pretrained(str(arguments.output / "model"))
    short = min(arguments.dimensions)
    print(f"SentenceTransformer({str(arguments.output / 'model')!r}, truncate_dim={short})")


if __name__ == "__main__":
    main()
