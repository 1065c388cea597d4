"""Frozen sentence encoders as estimators: the paper's SimCSE and trained model."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from datasets import Dataset, IterableDataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.base import BaseModel
from sentence_transformers.base.modules import Module
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.util import normalize_embeddings
from torch import Tensor, nn
from tqdm import tqdm
from typing_extensions import override

from st_softinfonce import _host
from st_softinfonce._checks import check_choice, check_count
from st_softinfonce.estimators.base import SimilarityEstimator
from st_softinfonce.estimators.teacher import describe_teacher, freeze_teacher, load_teacher
from st_softinfonce.estimators.text_column import TextColumn
from st_softinfonce.treatments import Distill, Soften, Treatment
from st_softinfonce.vectors import RepresentationTable, content_keys

Role = Literal["query", "document"]
# What becomes of a text that is not in the table.
_CONSEQUENCES = {
    "encode": "they are encoded as they come, which costs time",
    "ignore": "they are treated as similar to nothing",
}
_ROLE_SEEDS = {"query": 1, "document": 2}
_LOOK_EVERY = 101  # odd, so that the columns looked at are not always those of the queries
_TOLERATED_MISSES = 0.01

_logger = logging.getLogger(__name__)


class EncoderEstimator(SimilarityEstimator):
    """Similarity of a frozen sentence encoder's vectors; :class:`TrainedModelEstimator` and :class:`SimCSEEstimator`.

    The encoder is a plain attribute of a plain object: the trainer cannot replace, move, train or save it, and it is
    in evaluation mode whenever it is asked. It encodes the texts with its own tokenizer, prompts and length, as they
    are decoded from the ids that the model in training sees (truncated, lower-cased by an uncased tokenizer).

    Vectors are kept in a table by the content of their text, so that each text is encoded once. :meth:`precompute`
    fills it before training, from the original texts: then the encoder sees all of a text that the model in training
    truncates. Different texts that the model in training reads alike (they differ beyond its truncation, by case, or
    in words unknown to it) share the vector of the first of them.

    Args:
        model: The encoder: a name, a path, or an instance (which is put into evaluation mode and frozen).
        table: A folder to keep the vectors in between runs, or ``None`` for this run alone. What is not precomputed
            is written there about a thousand vectors at a time.
        batch_size: At least 1. Texts encoded at a time.
        on_miss: ``"encode"`` encodes what is not in the table, for which every step waits for the device once;
            ``"ignore"`` never waits, and treats such a text as similar to nothing.
        **model_options: For ``SentenceTransformer``, when ``model`` is a name or a path.

    Raises:
        ValueError: An option is out of range, or, at its first use, the table was made by something else.
        TypeError: ``model`` is something else.
    """

    normalize: bool

    def __init__(
        self,
        model: str | os.PathLike[str] | SentenceTransformer,
        *,
        table: str | os.PathLike[str] | None = None,
        batch_size: int = 64,
        on_miss: Literal["encode", "ignore"] = "encode",
        **model_options: Any,
    ) -> None:
        check_count("batch_size", batch_size)
        check_choice("on_miss", on_miss, tuple(_CONSEQUENCES))
        self.encoder = load_teacher(model, SentenceTransformer, model_options)
        self.batch_size = batch_size
        self.on_miss = on_miss
        self._teacher = describe_teacher(model, self.encoder)
        self._table_folder = table
        self._table: RepresentationTable | None = None
        self._fingerprints: dict[Any, str] = {}  # of each tokenizer
        self._looks_for_misses = False  # whether the table was filled before
        self._columns = 0

    @override
    def attach(self, model: nn.Module) -> None:
        freeze_teacher(self.encoder, model, self.name)

    @override
    def represent(self, column: TextColumn) -> Tensor:
        table = self._open_table(column.tokenizer)
        keys = self._keys(column)
        vectors, found = table.look_up(keys)
        if self._looks_for_misses:
            self._look_for_misses(column, found)
        if self.on_miss == "ignore":
            if vectors is None:
                raise ValueError(
                    f"on_miss='ignore' needs a table, but that of the estimator {self.name!r} is empty. Call "
                    "precompute(dataset, model) before training."
                )
            return vectors.masked_fill(~found.unsqueeze(1), torch.nan)  # which similarity() makes -inf
        if vectors is None or not bool(found.all()):
            missing = (~found).nonzero().squeeze(1)
            texts = column.texts
            encoded = self._encode([texts[row] for row in missing.tolist()], column.role, column.device)
            table.add(keys[missing], encoded)
            vectors = encoded.new_empty(len(column), encoded.size(1)) if vectors is None else vectors.clone()
            vectors[missing] = encoded
        return vectors

    @override
    def similarity(self, queries: Tensor, candidates: Tensor) -> Tensor:
        with torch.autocast(queries.device.type, enabled=False):
            similarity = queries.float() @ candidates.float().T
        return similarity if self.on_miss == "encode" else similarity.nan_to_num(nan=-torch.inf)

    def precompute(
        self,
        dataset: Dataset | Mapping[str, Sequence[str]],
        model: BaseModel,
        *,
        max_length: int | Mapping[str, int] | None = None,
        prompts: Mapping[str, str] | str | None = None,
        tasks: Mapping[str, str] | None = None,
        chunk_size: int = 4096,
        show_progress: bool | None = None,
    ) -> int:
        """Fill the table with a dataset's texts before training, from the texts themselves.

        Goes on where an interrupted run stopped: finished chunks are saved when the estimator has a folder. Columns
        are tokenized as the trainer does, if it is given the same options.

        Args:
            dataset: The training (or evaluation) data: the query column first.
            model: The model in training: its tokenizer makes the keys.
            max_length: As the training arguments' ``max_length``, if they have one.
            prompts: As the training arguments' ``prompts`` for this dataset. They take up length.
            tasks: As the training arguments' ``router_mapping`` for this dataset: column to task.
            chunk_size: At least 1. Texts between two saves.
            show_progress: Whether to show a progress bar; ``None`` shows it in a terminal only.

        Returns:
            How many different texts share the vector of an earlier one, as the model in training reads them alike.

        Raises:
            TypeError: ``dataset`` is neither a Dataset nor a mapping.
            ValueError: ``chunk_size`` is out of range, ``dataset`` holds several ones or something else than texts,
                an option is for several datasets, or the encoder's vectors do not fit into half precision.
            TableError: The table was made by something else, is damaged, or cannot be written.
        """
        check_count("chunk_size", chunk_size)
        for option, value in (("prompts", prompts), ("tasks", tasks)):
            if isinstance(value, Mapping) and any(isinstance(inner, Mapping) for inner in value.values()):
                raise ValueError(
                    f"{option} must be those of one dataset, got some for each of {list(value)}. Call precompute() "
                    f"for each dataset in turn, with {option}={option}[name]."
                )
        first: dict[int, str] = {}  # text of each key, which tells roles apart
        sharing: set[tuple[Role, str]] = set()
        hide = None if show_progress is None else not show_progress
        columns = self._columns_to_encode(dataset)
        with tqdm(total=sum(len(texts) for *_, texts in columns), desc="Encoding", unit="text", disable=hide) as bar:
            for name, role, texts in columns:
                prompt = prompts.get(name) if isinstance(prompts, Mapping) else prompts
                task = (tasks or {}).get(name)
                for start in range(0, len(texts), chunk_size):
                    chunk = texts[start : start + chunk_size]
                    column = TextColumn.as_read_by(
                        model, chunk, role=role, max_length=max_length, prompt=prompt, task=task
                    )
                    for key, text in zip(self._add_new(column, chunk), chunk, strict=True):
                        if first.setdefault(key, text) != text:
                            sharing.add((role, text))
                    bar.update(len(chunk))
        self._looks_for_misses = True
        if self._table is not None:
            self._table.compact()
        if sharing:
            _logger.info("%d texts share the vector of an earlier text, which the student reads alike.", len(sharing))
        return len(sharing)

    @override
    def get_config_dict(self) -> dict[str, Any]:
        return self._teacher | {"compares": self.compares, "vectors": "normalized" if self.normalize else "raw"}

    def _columns_to_encode(self, dataset: object) -> list[tuple[str, Role, list[str]]]:
        """Check a dataset, and list what is to be encoded: name, role and texts of each column."""
        if not isinstance(dataset, (Dataset, Mapping)):
            raise TypeError(
                f"dataset must be a datasets.Dataset or a mapping of column names to lists of texts, got "
                f"{type(dataset).__name__}. Of a dataset that is streamed make one: Dataset.from_list(list(dataset))."
            )
        names = dataset.column_names if isinstance(dataset, Dataset) else list(dataset)
        names = [name for name in names if name not in _host.LABEL_COLUMNS]
        wanted = {"queries": names[:1], "documents": names, "positives": names[1:]}[self.compares]
        if not wanted:
            raise ValueError(
                f"dataset must have the column of the queries, then those of documents, got {names}: there is nothing "
                f"to encode for the estimator {self.name!r}, which compares {self.compares}."
            )
        columns: list[tuple[str, Role, list[str]]] = []
        for name in wanted:
            column = dataset[name]
            if isinstance(column, (Dataset, IterableDataset)):
                raise ValueError(
                    f"dataset must be one dataset, got the {len(names)} datasets {names}. Call precompute() for each."
                )
            if isinstance(column, (str, bytes)) or not isinstance(column, Iterable):
                raise ValueError(
                    f"dataset[{name!r}] must be a list of texts, got a {type(column).__name__}. Put one into a list."
                )
            texts = list(column)
            for row, text in enumerate(texts):
                if not isinstance(text, str):
                    raise ValueError(
                        f"dataset[{name!r}][{row}] must be a text, got {text!r:.80}. Remove such rows, or, as for "
                        f"training, a column that is no text: dataset.remove_columns({name!r})."
                    )
            columns.append((name, "query" if name == names[0] else "document", texts))
        return columns

    def _add_new(self, column: TextColumn, texts: list[str]) -> list[int]:
        """Encode the original texts of a column whose keys the table lacks, save them, and return the keys of all."""
        table = self._open_table(column.tokenizer)
        device = self.encoder.device
        keys = self._keys(column).to(device)
        found = table.look_up(keys)[1].tolist()
        numbers: list[int] = keys.tolist()
        first: dict[int, int] = {}
        for row, key in enumerate(numbers):
            if not found[row]:
                first.setdefault(key, row)
        if first:
            rows = list(first.values())
            table.add(keys[rows], self._encode([texts[row] for row in rows], column.role, device))
            table.save()
        return numbers

    def _keys(self, column: TextColumn) -> Tensor:
        """Number each text by its content, its role, and its tokenizer: equal ids are other texts to another one."""
        seed = int(self._fingerprint(column.tokenizer), 16) % 2**60 + _ROLE_SEEDS[column.role]
        return content_keys(column.key_ids, seed)

    def _fingerprint(self, tokenizer: Any) -> str:
        if tokenizer not in self._fingerprints:
            digest = hashlib.blake2b(digest_size=8)
            for token, number in sorted({} if tokenizer is None else tokenizer.get_vocab().items()):
                # Vocabularies of characters hold lone surrogates.
                digest.update(f"{token}\0{number}\0".encode("utf-8", "surrogatepass"))
            self._fingerprints[tokenizer] = digest.hexdigest()
        return self._fingerprints[tokenizer]

    def _open_table(self, tokenizer: Any) -> RepresentationTable:
        if self._table is None:
            # Pooling and the like change vectors without changing a weight.
            modules = [
                [name, type(module).__name__, module.get_config_dict()]
                for name, module in self.encoder.named_modules()
                if isinstance(module, Module)
            ]
            settings = json.dumps(modules, sort_keys=True, default=str).encode()
            identity = self._teacher | {
                "normalize": self.normalize,
                "teacher_prompts": {name: text for name, text in self.encoder.prompts.items() if text},
                "teacher_default_prompt": self.encoder.default_prompt_name,
                "teacher_max_length": self.encoder.max_seq_length,
                "teacher_dimension": self.encoder.truncate_dim or self.encoder.get_embedding_dimension(),
                "teacher_modules": hashlib.blake2b(settings, digest_size=8).hexdigest(),
                "student_tokenizer": self._fingerprint(tokenizer),
            }
            self._table = RepresentationTable(self._table_folder, identity)
            self._looks_for_misses = len(self._table) > 0
        return self._table

    def _encode(self, texts: list[str], role: Role, device: torch.device) -> Tensor:
        self.encoder.to(device)
        encode = self.encoder.encode_query if role == "query" else self.encoder.encode_document
        with torch.autocast(device.type, enabled=False):
            vectors = encode(texts, batch_size=self.batch_size, convert_to_tensor=True, show_progress_bar=False)
        vectors = normalize_embeddings(vectors.float()) if self.normalize else vectors.float()
        # Cloned, as encoding runs in inference mode and autograd refuses to keep tensors of that mode.
        half = vectors.to(torch.float16).clone()
        lost = ~half.isfinite().all(dim=1) | ((half == 0).all(dim=1) & (vectors != 0).any(dim=1))
        if bool(lost.any()):
            row = int(lost.nonzero()[0])
            raise ValueError(
                f"model of the estimator {self.name!r} gives the text {texts[row][:80]!r} a vector of norm "
                f"{float(vectors[row].norm()):.3g}, which half precision cannot hold: it ends at 65,504, and below "
                "6e-8 everything is 0. Give a model that ends in the module Normalize, and load it in float32 if the "
                "norm is inf or nan."
            )
        return half

    def _look_for_misses(self, column: TextColumn, found: Tensor) -> None:
        """Say once that a table which was filled before training lacks texts: it may be for other data."""
        self._columns += 1
        if self._columns % _LOOK_EVERY != 1:
            return
        missed = int((~(found | column.empty)).sum())  # unknown queries are empty texts; they are not misses
        if missed > _TOLERATED_MISSES * len(column):
            self._looks_for_misses = False
            warnings.warn(
                f"The table of the estimator {self.name!r} lacks {missed} of {len(column)} texts: "
                f"{_CONSEQUENCES[self.on_miss]}. It was probably made for other data, or with another max_length or "
                "prompt: call precompute(dataset, model) again.",
                UserWarning,
                stacklevel=2,
            )


class TrainedModelEstimator(EncoderEstimator):
    """How relevant a frozen retrieval model finds each candidate's text for the query (Li et al. 2023, section 3.2).

    Dot products of the encoder's query and document vectors, raw as in the paper, or cosines as in GISTEmbed. The
    paper's encoder is the same architecture, fine-tuned with InfoNCE first; any sentence-transformers model will do.
    Judges mined negatives too. Its treatment of raw products is the paper's ``Soften``: the temperature 5 suits a
    spread of about 15, and 0.1 an encoder that ends in normalising its vectors. With ``normalize`` it is
    ``Distill()``, which gained where the paper's weights did not (``evaluation/README.md``).

    Args:
        model: The encoder: a name, a path, or an instance.
        normalize: Compare cosines, and distil, instead of comparing dot products and softening.
        **options: As for :class:`EncoderEstimator`.

    Raises:
        ValueError: As :class:`EncoderEstimator`.
        TypeError: As :class:`EncoderEstimator`.
    """

    name = "trained-model"
    treatment: Treatment = Soften(alpha=1.3, beta=0.7, temperature=5.0)
    compares = "documents"

    def __init__(
        self, model: str | os.PathLike[str] | SentenceTransformer, *, normalize: bool = False, **options: Any
    ) -> None:
        super().__init__(model, **options)
        check_choice("normalize", normalize, (True, False))
        self.normalize = normalize
        if normalize:
            self.treatment = Distill()
        elif any(isinstance(module, Normalize) for module in self.encoder.modules()):  # of a Router, of each route
            self.treatment = Soften(alpha=1.3, beta=0.7, temperature=0.1)


class SimCSEEstimator(EncoderEstimator):
    """How similar a frozen sentence encoder finds each candidate's query to the query (Li et al. 2023, section 3.2).

    Cosines of the encoder's vectors. The paper's encoder is unsupervised SimCSE on the queries of the training data
    (:func:`train_simcse`); any sentence encoder will do.

    Args:
        model: The encoder: a name, a path, or an instance.
        **options: As for :class:`EncoderEstimator`.

    Raises:
        ValueError: As :class:`EncoderEstimator`.
        TypeError: As :class:`EncoderEstimator`.
    """

    name = "simcse"
    treatment = Soften(alpha=1.3, beta=0.7, temperature=0.1)
    compares = "queries"
    normalize = True
