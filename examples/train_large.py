"""Train what is large: batches, vectors, the model, the machine. Each option is a line or two to copy.

    python examples/train_large.py src --mini-batch-size 32 --batch-size 512   # gradients are cached: less memory
    python examples/train_large.py src --dimensions 384 128 64                 # vectors that can be cut (Matryoshka)
    python examples/train_large.py src --lora 16                               # an adapter alone (needs peft)
    accelerate launch --num_processes 4 examples/train_large.py src            # negatives from all GPUs

All of them go together. What the treatments do is logged beside the loss: `--report-to tensorboard` draws it. Several
processes also run without a GPU: `accelerate launch --multi_gpu --num_processes 2 ...`.
"""

import argparse
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss

from st_softinfonce import CachedSoftInfoNCELoss, SoftInfoNCELoss
from st_softinfonce.callbacks import TreatmentStatisticsCallback
from st_softinfonce.data import mine_pairs


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, help="source trees to mine")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=32, help="pairs a step and device (default: %(default)s)")
    parser.add_argument("--mini-batch-size", type=int, help="texts at a time; each is then embedded twice")
    parser.add_argument("--dimensions", type=int, nargs="+", help="at which vectors may be cut, the full one first")
    parser.add_argument("--lora", type=int, metavar="RANK", help="train an adapter of this rank")
    parser.add_argument("--steps", type=int, default=1000, help="training steps (default: %(default)s)")
    parser.add_argument("--report-to", default="none", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("output/large"), help="default: %(default)s")
    arguments = parser.parse_args()
    if missing := [str(path) for path in arguments.paths if not path.exists()]:
        parser.error(f"PATH must exist, got {missing[0]!r}: check its spelling.")

    # First: it sets up the process group, and each process's device.
    training = SentenceTransformerTrainingArguments(
        output_dir=str(arguments.output / "checkpoints"),
        max_steps=arguments.steps,
        per_device_train_batch_size=arguments.batch_size,
        learning_rate=2e-4 if arguments.lora else 2e-5,
        dataloader_drop_last=True,  # gathering needs as many pairs on every device
        logging_steps=max(1, min(50, arguments.steps // 2)),
        save_strategy="no",
        use_cpu=not torch.cuda.is_available(),  # several processes on a CPU, to try it
        report_to=arguments.report_to,
    )
    # Mining gives the same rows in the same order in every process.
    train = mine_pairs(arguments.paths).select_columns(["query", "code"])
    model = SentenceTransformer(arguments.model, device=str(training.device))
    if arguments.lora:
        from peft import LoraConfig, TaskType

        # The layers are peft's defaults for the architecture; target_modules=[...] names others.
        model.add_adapter(LoraConfig(TaskType.FEATURE_EXTRACTION, r=arguments.lora, lora_alpha=2 * arguments.lora))
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        print(f"{trained:,} of {sum(parameter.numel() for parameter in model.parameters()):,} parameters are trained")

    options = {"estimator": "bm25", "gather_across_devices": training.world_size > 1}
    if arguments.mini_batch_size:
        loss = CachedSoftInfoNCELoss(model, mini_batch_size=arguments.mini_batch_size, **options)
    else:
        loss = SoftInfoNCELoss(model, **options)
    if arguments.dimensions:  # the weights are made once a step all the same
        loss = MatryoshkaLoss(model, loss, matryoshka_dims=arguments.dimensions)
    trainer = SentenceTransformerTrainer(model=model, args=training, train_dataset=train, loss=loss)
    trainer.add_callback(TreatmentStatisticsCallback(trainer))
    trainer.train()
    if trainer.is_world_process_zero():
        model.save_pretrained(str(arguments.output / "model"))  # of an adapter, the adapter alone
        cut = f", truncate_dim={min(arguments.dimensions)}" if arguments.dimensions else ""
        print(f"{training.world_size} processes: SentenceTransformer({str(arguments.output / 'model')!r}{cut})")
    # A process that leaves while its group still works may be aborted.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
