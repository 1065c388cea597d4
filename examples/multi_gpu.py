"""Train on several GPUs: each query has the documents of all devices as its negatives, and all of them are judged.

    accelerate launch --num_processes 4 examples/multi_gpu.py src --model NAME_OR_FOLDER --output output/multi-gpu

With `gather_across_devices` four devices of 32 pairs are one batch of 128. What the treatments do is logged beside
the loss; add `--report-to tensorboard` (or wandb, ...) to see them drawn. To try it without a GPU: `accelerate launch
--multi_gpu --num_processes 2 ...`, which then runs two processes on the CPU.
"""

import argparse
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from st_softinfonce import SoftInfoNCELoss
from st_softinfonce.callbacks import TreatmentStatisticsCallback
from st_softinfonce.data import mine_pairs


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, help="source trees to mine")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=1000, help="training steps (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="pairs a step and device (default: %(default)s)")
    parser.add_argument("--report-to", default="none", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("output/multi-gpu"), help="default: %(default)s")
    arguments = parser.parse_args()
    if missing := [str(path) for path in arguments.paths if not Path(path).exists()]:
        parser.error(f"PATH must exist, got {missing[0]!r}: check its spelling.")

    # First: it sets up the process group, and each process's device.
    training = SentenceTransformerTrainingArguments(
        output_dir=str(arguments.output / "checkpoints"),
        max_steps=arguments.steps,
        per_device_train_batch_size=arguments.batch_size,
        learning_rate=2e-5,
        dataloader_drop_last=True,  # gathering needs as many pairs on every device
        logging_steps=max(1, min(50, arguments.steps // 2)),
        save_strategy="no",
        use_cpu=not torch.cuda.is_available(),  # several processes on a CPU, to try it
        report_to=arguments.report_to,
    )
    # Mining gives the same rows in the same order in every process.
    train = mine_pairs(arguments.paths).select_columns(["query", "code"])
    model = SentenceTransformer(arguments.model, device=str(training.device))
    trainer = SentenceTransformerTrainer(
        model=model,
        args=training,
        train_dataset=train,
        loss=SoftInfoNCELoss(model, estimator="bm25", gather_across_devices=True),
    )
    trainer.add_callback(TreatmentStatisticsCallback(trainer))
    trainer.train()
    if trainer.is_world_process_zero():
        model.save_pretrained(str(arguments.output / "model"))
        print(f"{training.world_size} processes: SentenceTransformer({str(arguments.output / 'model')!r})")
    # A process that leaves while its group still works may be aborted.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
