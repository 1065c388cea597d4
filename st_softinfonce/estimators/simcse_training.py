"""Train the unsupervised SimCSE encoder that the ``simcse`` estimator takes."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from typing import Any

from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import nn


def train_simcse(
    queries: Iterable[str],
    base_model: str | os.PathLike[str] | SentenceTransformer,
    *,
    output_dir: str | os.PathLike[str] = "output/simcse",
    temperature: float = 0.07,
    batch_size: int = 256,
    epochs: float = 1,
    learning_rate: float = 3e-5,
    **training_arguments: Any,
) -> SentenceTransformer:
    """Train a sentence encoder on queries alone: each is its own positive, told apart by dropout only.

    Unsupervised SimCSE (Gao et al. 2021) as Li et al. (2023) use it, with the standard trainer: no masked-language
    loss, temperature 0.07, the queries of all languages together. The paper starts from a DistilBERT sentence encoder
    with mean pooling and trains for 10 epochs. Returned is the encoder in evaluation mode.

    Args:
        queries: The queries of the training data; equal ones count once.
        base_model: A name, a path, or an instance, which is copied before training. Needs dropout.
        output_dir: For the trainer's checkpoints.
        temperature: Above 0, of the cosine.
        batch_size: At least 2. Queries a step, on one device.
        epochs: Passes over the queries.
        learning_rate: Of the trainer.
        **training_arguments: Further ``SentenceTransformerTrainingArguments``.

    Raises:
        ValueError: There are fewer than 2 different queries, or the model has no dropout.
    """
    texts = list(dict.fromkeys(query for query in queries if query.strip()))
    if len(texts) < 2:
        raise ValueError(f"queries must hold at least 2 different texts, got {len(texts)}: give the training queries.")
    if isinstance(base_model, SentenceTransformer):
        model = copy.deepcopy(base_model)
    else:
        model = SentenceTransformer(os.fspath(base_model))
    if not any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()):
        raise ValueError(
            "base_model has no dropout, which is all that tells a query from itself here. Take a transformer with "
            "hidden_dropout_prob above 0."
        )
    arguments: dict[str, Any] = {
        "output_dir": os.fspath(output_dir),
        "num_train_epochs": epochs,
        "per_device_train_batch_size": min(batch_size, len(texts)),
        "learning_rate": learning_rate,
        "save_strategy": "no",
        "report_to": "none",
    }
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(**(arguments | training_arguments)),
        train_dataset=Dataset.from_dict({"query": texts, "same_query": texts}),
        loss=MultipleNegativesRankingLoss(model, scale=1.0 / temperature),
    )
    trainer.train()
    return model.eval()
