"""A user's pairs in batches, as training sees them, and what an estimator says of each batch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset, concatenate_datasets, load_dataset
from torch import Tensor, nn

from st_softinfonce._checks import check_count
from st_softinfonce.estimators.base import (
    Representation,
    SimilarityEstimator,
    bound_to_batch,
    checked_representation,
    checked_similarity,
    map_rows,
)
from st_softinfonce.estimators.text_column import TextColumn, length_for
from st_softinfonce.functional import check_similarity

Role = Literal["query", "document"]
_FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
# Of a folder with splits, the one that would be trained on.
_TABLES = ("data/train-*.parquet", "train*.parquet", "data/*.parquet", "*.parquet")
# A few queries at a time: an estimator's intermediate results can be much larger than the similarities.
_CHUNK = 256


def read_pairs(paths: Sequence[str | os.PathLike[str]], *, languages: Sequence[str] | None = None) -> Dataset:
    """Read pairs from wherever they are, those of all paths in order.

    Args:
        paths: Either data (Parquet, JSON Lines and CSV files, and folders of Parquet files such as those that
            ``mine_to_parquet`` writes), or source trees, which are mined.
        languages: Of source trees, which languages to mine; by default all.

    Raises:
        FileNotFoundError: A path does not exist.
        ValueError: Data and source trees are mixed, or the source trees hold fewer than 2 pairs.
        OSError: The data cannot be read.
        ImportError: The sources cannot be mined for want of the extra ``mining``.
    """
    folders = [Path(path) for path in paths]
    for path in folders:
        if not path.exists():
            raise FileNotFoundError(f"PATH must exist, got {str(path)!r}: check its spelling.")
    tables = [found for path in folders if (found := _tables_of(path)) is not None]
    if not tables:
        return _mined(folders, languages)
    if len(tables) < len(folders):
        raise ValueError("give either data or source trees, not both: their columns differ.")
    try:
        parts = [load_dataset(kind, data_files=[str(file) for file in files], split="train") for kind, files in tables]
        return concatenate_datasets(parts)
    except Exception as error:
        # datasets hides the reason behind "An error occurred while generating the dataset".
        raise OSError(f"{str(folders[0])!r} cannot be read as pairs: {error.__cause__ or error}") from error


def _tables_of(path: Path) -> tuple[str, list[Path]] | None:
    """Find the data files that a path stands for, and their format; None for source code."""
    if path.is_file():
        kind = _FORMATS.get(path.suffix.lower())
        return None if kind is None else (kind, [path])
    files = next((found for pattern in _TABLES if (found := sorted(path.glob(pattern)))), None)
    return None if files is None else ("parquet", files)


def _mined(paths: Sequence[Path], languages: Sequence[str] | None) -> Dataset:
    from st_softinfonce.data import MiningReport, mine_pairs
    from st_softinfonce.data.mining_report import advice_on

    report = MiningReport()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No pairs found", category=UserWarning)  # the error says it
        pairs = mine_pairs(list(paths), languages=languages, report=report)
    if len(pairs) < 2:
        raise ValueError(" ".join(advice_on(report, needed=2)))
    return pairs


class PairTexts:
    """The texts of a dataset of pairs, preprocessed as the trainer does it.

    Args:
        pairs: The columns ``query`` and ``code``, or else the first two columns.
        model: The model to train.
        prompts: As in the training arguments: one for both columns, or by column.
        router_mapping: As in the training arguments: the task by column.
        max_length: As in the training arguments, in tokens: one for both columns, or by task.

    Raises:
        ValueError: ``pairs`` is no dataset of two columns of texts, ``model`` is no model, or an option is for another
            column.
    """

    def __init__(
        self,
        pairs: Dataset,
        *,
        model: nn.Module,
        prompts: str | Mapping[str, str] | None = None,
        router_mapping: Mapping[str, str] | None = None,
        max_length: int | Mapping[str, int] | None = None,
    ) -> None:
        if not isinstance(pairs, Dataset):
            raise ValueError(f"pairs must be a datasets.Dataset, got {type(pairs).__name__}: choose one split.")
        if not isinstance(model, nn.Module):
            raise ValueError(
                f"model must be the model to train, got {type(model).__name__}: estimators see the texts as it does."
            )
        names = pairs.column_names
        if len(names) < 2:
            raise ValueError(f"pairs must have two text columns, got {names}: add the missing one.")
        self.columns = ("query", "code") if {"query", "code"} <= set(names) else (names[0], names[1])
        plain = pairs.with_format(None)
        self.queries: list[str] = list(plain[self.columns[0]])
        self.documents: list[str] = list(plain[self.columns[1]])
        for name, texts in zip(self.columns, (self.queries, self.documents), strict=True):
            for row, text in enumerate(texts):
                if not isinstance(text, str):
                    raise ValueError(
                        f"pairs must hold texts, got a {type(text).__name__} in the column {name!r}, row {row}. "
                        "Filter such rows out, or select the two columns of texts."
                    )
        for option, value in (("prompts", prompts), ("router_mapping", router_mapping)):
            if isinstance(value, Mapping) and not set(value) <= set(self.columns):
                raise ValueError(f"{option} must be by column, of {self.columns}, got {sorted(value)}.")
        self.model: Any = model
        self._prompts = prompts
        self._tasks = router_mapping or {}
        self._max_length = max_length

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.queries)

    def column(self, rows: list[int], role: Role) -> TextColumn:
        """Make the column of a batch's queries or documents, on the model's device."""
        texts, reading = self._of(rows, role)
        return TextColumn.as_read_by(self.model, texts, role=role, max_length=self._max_length, **reading)

    def embeddings(self, rows: list[int], role: Role) -> Tensor:
        """Embed a batch's queries or documents ``(n, D)`` by the model as it is, for estimators of its scores."""
        texts, reading = self._of(rows, role)
        # Without a prompt, encode() would take the model's own, which the trainer does not.
        read: dict[str, Any] = {"prompt": reading["prompt"] or ""}
        if (task := reading["task"]) is not None:
            read["task"] = task
        if (longest := length_for(task, self._max_length)) is not None:
            read["processing_kwargs"] = {"text": {"max_length": longest, "truncation": True}}
        was_training = self.model.training
        embeddings: Tensor = self.model.encode(texts, **read, convert_to_tensor=True, show_progress_bar=False)
        self.model.train(was_training)
        return embeddings

    def _of(self, rows: list[int], role: Role) -> tuple[list[str], dict[str, str | None]]:
        """Return a batch's queries or documents, and the prompt and task that the trainer gives them."""
        name, source = (self.columns[0], self.queries) if role == "query" else (self.columns[1], self.documents)
        prompt = self._prompts.get(name) if isinstance(self._prompts, Mapping) else self._prompts
        return [source[row] for row in rows], {"prompt": prompt, "task": self._tasks.get(name)}


def batch_similarities(
    estimator: SimilarityEstimator, texts: PairTexts, batch_size: int, *, batches: int, seed: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Go through pairs in batches of random order, as training does; beyond the data's end a new order begins.

    The order follows from the ``seed`` alone.

    Yields:
        The rows of a batch, and their similarities ``(batch_size, batch_size)``; each row's positive is on the
        diagonal.

    Raises:
        ValueError: A number is out of range, there are fewer pairs than a batch, or the estimator breaks its
            contract.
    """
    check_count("batch_size", batch_size, 2)
    check_count("batches", batches)
    if len(texts) < batch_size:
        remedy = "give a smaller batch_size" if len(texts) > 1 else "there is nothing to compare, give more data"
        raise ValueError(f"pairs must fill a batch of {batch_size}, got {len(texts)}: {remedy}.")
    generator = torch.Generator().manual_seed(seed)
    in_a_pass = len(texts) // batch_size
    order: list[int] = []
    for number in range(batches):
        if number % in_a_pass == 0:
            order = torch.randperm(len(texts), generator=generator).tolist()
        start = (number % in_a_pass) * batch_size
        rows = order[start : start + batch_size]
        queries, candidates = _represent(estimator, texts, rows)
        bound = bound_to_batch(estimator, candidates)
        chunks = [slice(at, min(at + _CHUNK, batch_size)) for at in range(0, batch_size, _CHUNK)]
        similarity = torch.cat(
            [checked_similarity(bound, map_rows(lambda part: part[chunk], queries), candidates) for chunk in chunks]  # noqa: B023
        )
        own = torch.arange(batch_size, device=similarity.device)
        check_similarity(f"similarity of the estimator {estimator.name!r}", similarity, own, anywhere=True)
        yield rows, similarity


def negatives_of(matrix: Tensor, positives: Tensor) -> Tensor:
    """Drop each row's positive, whose column ``(N,)`` says, of ``(N, M)``: ``(N, M - 1)`` in order."""
    columns = torch.arange(matrix.size(1) - 1, device=matrix.device)
    return matrix.gather(1, columns + (columns >= positives.unsqueeze(1)))


def _represent(
    estimator: SimilarityEstimator, texts: PairTexts, rows: list[int]
) -> tuple[Representation, Representation]:
    if estimator.compares == "scores":
        return texts.embeddings(rows, "query"), texts.embeddings(rows, "document")
    first: Role = "document" if estimator.compares == "positives" else "query"
    queries = checked_representation(estimator, texts.column(rows, first))
    if estimator.compares != "documents":
        return queries, queries
    return queries, checked_representation(estimator, texts.column(rows, "document"))
