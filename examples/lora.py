"""Train a LoRA adapter instead of the whole model: less memory, and a file of a few megabytes to share.

    python examples/lora.py src --model NAME_OR_FOLDER --output output/lora

Needs peft. What is saved is the adapter alone; loading it loads the model that it belongs to.
"""

import argparse
from pathlib import Path

from peft import LoraConfig, TaskType
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from st_softinfonce import SoftInfoNCELoss
from st_softinfonce.data import mine_pairs


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, help="source trees to mine")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="default: %(default)s")
    parser.add_argument("--rank", type=int, default=16, help="of the adapter (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1000, help="training steps (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("output/lora"), help="default: %(default)s")
    arguments = parser.parse_args()
    if missing := [str(path) for path in arguments.paths if not Path(path).exists()]:
        parser.error(f"PATH must exist, got {missing[0]!r}: check its spelling.")

    train = mine_pairs(arguments.paths).select_columns(["query", "code"])
    model = SentenceTransformer(arguments.model)
    # The layers are peft's defaults for the architecture; target_modules=[...] names others.
    model.add_adapter(LoraConfig(TaskType.FEATURE_EXTRACTION, r=arguments.rank, lora_alpha=2 * arguments.rank))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    print(f"{trained:,} of {sum(parameter.numel() for parameter in model.parameters()):,} parameters are trained")

    SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(arguments.output / "checkpoints"),
            max_steps=arguments.steps,
            per_device_train_batch_size=arguments.batch_size,
            learning_rate=2e-4,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=train,
        loss=SoftInfoNCELoss(model, estimator="bm25"),
    ).train()
    model.save_pretrained(str(arguments.output / "model"))
    print(f"SentenceTransformer({str(arguments.output / 'model')!r})")


if __name__ == "__main__":
    main()
