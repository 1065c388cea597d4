"""Training as every row gets it: the same pairs in the same batches, by the host's trainer and one schedule."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback

from evaluation import UsageError


def training_order(rows: Dataset, *, batch_size: int, steps: int, seed: int, group_by: str | None = None) -> list[int]:
    """Lay out which pair is trained on when, so that every loss sees the same pairs in the same batches.

    Each pass over the pairs has an order of its own that follows from the seed. Pairs with one value in the column
    ``group_by`` are put side by side, and then whole batches are shuffled.

    Returns:
        ``batch_size * steps`` row numbers.
    """
    if len(rows) < batch_size:
        raise UsageError(f"batch_size={batch_size} is more than the {len(rows)} training pairs: take smaller batches.")
    generator = np.random.default_rng(seed)
    groups = None if group_by is None else pd.factorize(np.asarray(rows[group_by]))[0]
    order: list[int] = []
    while len(order) < batch_size * steps:
        shuffled = generator.permutation(len(rows))
        if groups is not None:
            place = generator.permutation(groups.max() + 1)[groups[shuffled]]
            shuffled = shuffled[np.argsort(place, kind="stable")]
        batches = shuffled[: len(rows) // batch_size * batch_size].reshape(-1, batch_size)
        if groups is not None:
            batches = generator.permutation(batches)
        order += batches.flatten().tolist()
    return order[: batch_size * steps]


def fit(
    model: SentenceTransformer,
    loss: nn.Module,
    rows: Dataset,
    *,
    batch_size: int,
    learning_rate: float,
    seed: int,
    bf16: bool = False,
) -> None:
    """Train once on rows in their order: the texts ``query``, ``code``, ``negative*``, and ``label`` if there is one.

    The learning rate is the peak of a linear schedule that warms up over the first tenth.
    """
    others = sorted(name for name in rows.column_names if name.startswith("negative"))
    others += [name for name in rows.column_names if name == "label"]
    model.model_card_data.generate_widget_examples = False
    with tempfile.TemporaryDirectory() as folder:
        trainer = SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=folder,
                num_train_epochs=1,
                per_device_train_batch_size=batch_size,
                learning_rate=learning_rate,
                lr_scheduler_type="linear",
                warmup_steps=max(1, len(rows) // batch_size // 10),
                batch_sampler=_in_given_order,
                dataloader_drop_last=True,
                dataloader_pin_memory=model.device.type != "cpu",
                use_cpu=model.device.type == "cpu",
                bf16=bf16,
                seed=seed,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=rows.select_columns(["query", "code", *others]),
            loss=loss,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def _in_given_order(dataset: Dataset, **options: Any) -> DefaultBatchSampler:
    return DefaultBatchSampler(SequentialSampler(dataset), **options)
