"""One run: make the teachers it needs, train, evaluate through MTEB."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import shutil
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict, disable_progress_bars
from filelock import FileLock
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer import losses as host_losses
from sentence_transformers.util import cos_sim, mine_hard_negatives
from torch import nn
from transformers import PrinterCallback

import st_softinfonce
from evaluation.duplicates import with_duplicates
from evaluation.matrix import TEACHERS
from evaluation.models import is_static, load_model
from evaluation.oracle import NAME as ORACLE
from evaluation.oracle import KnownRelevance
from evaluation.pairs import check_packages, fingerprint, load_corpus, sample, training_order
from evaluation.scoring import Scores, score
from st_softinfonce import get_estimator
from st_softinfonce import losses as own_losses
from st_softinfonce.calibration import calibrate
from st_softinfonce.estimators import KnownQueries, MixtureEstimator, SimilarityEstimator, train_simcse
from st_softinfonce.losses.in_batch import InBatchLoss

BASELINE_LOSS = "MultipleNegativesRankingLoss"
_CACHED = {
    "GISTEmbedLoss": "CachedGISTEmbedLoss",
    "MultipleNegativesRankingLoss": "CachedMultipleNegativesRankingLoss",
    "SoftInfoNCELoss": "CachedSoftInfoNCELoss",
}
_GUIDE_MOST_NEGATIVES = 1


class NotApplicable(Exception):
    """A row cannot be had with this model, language or regime; the message says why."""


class Workshop:
    """Trains and scores runs over one corpus, and keeps what they share: data, tasks, teachers, mined negatives.

    Args:
        corpus: Folder or name of the corpus.
        cache: Folder for teachers and mined negatives; several processes may share it.
        corpus_settings: ``validation_queries``, ``test_queries`` and ``candidates``.
        device: ``None`` takes what torch finds.
        evaluation_batch_size: Texts encoded at a time.
    """

    def __init__(
        self,
        corpus: str,
        cache: Path,
        corpus_settings: Mapping[str, Any],
        *,
        device: str | None = None,
        evaluation_batch_size: int = 128,
    ) -> None:
        disable_progress_bars()
        self.corpus = corpus
        self.cache = cache
        self.limits = dict(corpus_settings)
        self.device = device
        self.evaluation_batch_size = evaluation_batch_size
        self.pairs = functools.lru_cache(maxsize=4)(self._pairs)

    def _pairs(self, language: str, train_pairs: int | None) -> DatasetDict:
        """Load a language's pairs, cut to the limits."""
        splits = load_corpus(self.corpus, language)
        parts = {"train": sample(splits["train"], train_pairs)}
        for split in ("validation", "test"):
            parts[split] = sample(splits[split], self.limits.get("candidates"))
        return DatasetDict(parts)

    def fingerprint(self, language: str, train_pairs: int | None) -> str:
        """Hash a language's pairs.

        Args:
            language: Such as ``python``.
            train_pairs: The limit.

        Returns:
            16 hexadecimal digits.
        """
        return fingerprint(*self.pairs(language, train_pairs).values())

    def execute(self, settings: Mapping[str, Any]) -> tuple[Scores, dict[str, float]]:
        """Train as the settings say, and score the result.

        Args:
            settings: Of a :class:`~evaluation.matrix.Run`.

        Returns:
            Scores, and seconds by stage.

        Raises:
            NotApplicable: There is no such row.
            ValueError: The training and test pairs share a package.
        """
        started = time.perf_counter()
        language, split = settings["language"], "validation" if settings["stage"] == "tune" else "test"
        pairs = self.pairs(language, settings["corpus"]["train_pairs"])
        check_packages({"train": pairs["train"], split: pairs[split]}, language)
        seconds = {}
        model = load_model(settings["model"], self.device)
        if "loss" in settings["row"]:
            loss, train = self._prepare(model, pairs["train"], settings)
            seconds["prepare"] = time.perf_counter() - started
            self._train(model, loss, train, settings)
            seconds["train"] = time.perf_counter() - started - seconds["prepare"]
        scores = score(
            model, pairs[split], settings["corpus"]["queries"], language, batch_size=self.evaluation_batch_size
        )
        seconds["evaluate"] = time.perf_counter() - started - sum(seconds.values())
        return scores, {name: round(value, 2) for name, value in seconds.items()}

    def _prepare(
        self, model: SentenceTransformer, pairs: Dataset, settings: Mapping[str, Any]
    ) -> tuple[nn.Module, Dataset]:
        """Make the loss and lay out the training pairs in their order."""
        regime = settings["regime"]
        if settings["duplicates"] is not None:
            pairs = with_duplicates(pairs, **_given(settings["duplicates"]))
        if regime.get("negatives"):
            pairs = self._with_negatives(pairs, settings)
        steps = max(1, round(regime["epochs"] * len(pairs) / regime["batch_size"]))
        order = training_order(
            pairs,
            batch_size=regime["batch_size"],
            steps=steps,
            seed=settings["seed"],
            group_by=regime.get("group_by"),
        )
        columns = [name for name in pairs.column_names if name in ("query", "code") or name.startswith("negative")]
        columns.sort(key=lambda name: (name != "query", name != "code", name))
        return self._loss(model, pairs, settings), pairs.select_columns(columns).select(order)

    def _loss(self, model: SentenceTransformer, pairs: Dataset, settings: Mapping[str, Any]) -> nn.Module:
        row, regime, scale = settings["row"], settings["regime"], settings["scale"]
        negatives = regime.get("negatives", 0)
        name = row["loss"]
        options = dict(row.get("options", {}))
        if regime.get("cached") and not is_static(model):
            if name not in _CACHED:
                raise NotApplicable(f"{name} has no version with cached gradients, which this batch size needs.")
            name = _CACHED[name]
            options["mini_batch_size"] = regime.get("mini_batch_size", 32)
        if name.endswith("GISTEmbedLoss"):
            if negatives > _GUIDE_MOST_NEGATIVES:
                raise NotApplicable(f"{name} takes at most {_GUIDE_MOST_NEGATIVES} hard negative a query.")
            guide = SentenceTransformer(str(self.teacher(row["guide"], settings)), device=str(model.device))
            guide.eval().requires_grad_(False)
            kind = GuidedLoss if name == "GISTEmbedLoss" else host_losses.CachedGISTEmbedLoss
            return kind(model, guide, temperature=1 / scale, **options)
        if hasattr(host_losses, name):
            return getattr(host_losses, name)(model, scale=scale, **options)
        kind = getattr(own_losses, name)
        estimator = self.estimator(row, model, pairs, settings)
        if options.get("weighting") == "posterior":
            report = calibrate(
                estimator, pairs.select_columns(["query", "code"]), min(regime["batch_size"], len(pairs)), model=model
            )
            if report.posterior is None:
                raise NotApplicable(f"no posterior: {report.posterior_problem}")
            options["posterior"] = report.posterior
        if negatives and estimator.compares == "queries" and issubclass(kind, InBatchLoss):
            options["known_queries"] = KnownQueries(dict(zip(pairs["code"], pairs["query"], strict=True)), model)
        return kind(model, estimator, scale=scale, **options)

    def estimator(
        self, row: Mapping[str, Any], model: SentenceTransformer, pairs: Dataset, settings: Mapping[str, Any]
    ) -> SimilarityEstimator:
        """Make a row's estimator, with its teacher's vectors of the training texts at hand.

        Args:
            row: ``estimator``, and ``estimator_options`` or, of a mixture, ``parts``.
            model: The model to train.
            pairs: The training pairs.
            settings: Of the run.

        Returns:
            The estimator.
        """
        if row["estimator"] == "mixture":
            parts = [self.estimator({"estimator": part}, model, pairs, settings) for part in row["parts"]]
            return MixtureEstimator(parts, **row.get("estimator_options", {}))
        if row["estimator"] == ORACLE:
            return KnownRelevance(pairs, model)
        options = dict(row.get("estimator_options", {}))
        if row["estimator"] not in TEACHERS:
            return get_estimator(row["estimator"], **options)
        folder = self.teacher(row["estimator"], settings)
        # One table a tokenizer and length: the key of a text is its ids as the model in training reads them.
        table = folder.parent / f"{folder.name}-table-{_digest(settings['model'])}"
        with FileLock(f"{table}.lock"):
            estimator = get_estimator(row["estimator"], model=folder, table=table, device=str(model.device), **options)
            estimator.precompute(pairs.select_columns(["query", "code"]), model, show_progress=False)
        return estimator

    def _train(self, model: SentenceTransformer, loss: nn.Module, train: Dataset, settings: Mapping[str, Any]) -> None:
        fit(
            model,
            loss,
            train,
            batch_size=settings["regime"]["batch_size"],
            learning_rate=settings["learning_rate"],
            seed=settings["seed"],
            bf16=settings["bf16"],
        )

    def teacher(self, kind: str, settings: Mapping[str, Any]) -> Path:
        """Return the folder of a teacher, trained once a model and language and kept.

        Args:
            kind: One of ``TEACHERS``.
            settings: Of the run that needs it.

        Returns:
            The folder.
        """
        pairs = self.pairs(settings["language"], settings["corpus"]["train_pairs"])["train"]
        recipe = settings["teachers"][kind]
        own = kind == "trained-model"
        if settings["duplicates"] is not None:
            pairs = with_duplicates(pairs, **_given(settings["duplicates"]))
        identity = [kind, recipe, settings["model"] if own else None, fingerprint(pairs)]
        folder = self.cache / f"{kind}-{settings['language']}-{_digest(identity)}"

        def make(place: Path) -> None:
            model = load_model(settings["model"] if own else recipe, self.device)
            if own:
                order = training_order(pairs, batch_size=recipe["batch_size"], steps=recipe["steps"], seed=0)
                fit(
                    model,
                    host_losses.MultipleNegativesRankingLoss(model, scale=recipe.get("scale", 20.0)),
                    pairs.select_columns(["query", "code"]).select(order),
                    batch_size=recipe["batch_size"],
                    learning_rate=recipe["learning_rate"],
                    seed=0,
                    bf16=settings["bf16"],
                )
            else:
                with tempfile.TemporaryDirectory() as checkpoints:
                    model = train_simcse(
                        pairs["query"],
                        model,
                        output_dir=checkpoints,
                        batch_size=recipe["batch_size"],
                        epochs=recipe["epochs"],
                        learning_rate=recipe["learning_rate"],
                        seed=0,
                        disable_tqdm=True,
                        logging_strategy="no",
                        use_cpu=model.device.type == "cpu",
                        dataloader_pin_memory=model.device.type != "cpu",
                        bf16=settings["bf16"],
                    )
            model.save_pretrained(str(place), create_model_card=False)

        _make_once(folder, make)
        return folder

    def _with_negatives(self, pairs: Dataset, settings: Mapping[str, Any]) -> Dataset:
        """Add the hardest documents by a miner, unfiltered; pairs that it finds none for are left out."""
        regime = settings["regime"]
        miner = regime["mined_by"]
        teacher = settings["teachers"].get(miner) if miner in TEACHERS else None
        identity = [regime["negatives"], miner, teacher, settings["model"], fingerprint(pairs)]
        folder = self.cache / f"negatives-{settings['language']}-{_digest(identity)}"

        def make(place: Path) -> None:
            if miner in TEACHERS:
                model = SentenceTransformer(str(self.teacher(miner, settings)), device=self.device)
            else:
                model = load_model(settings["model"], self.device)
            mined = mine_hard_negatives(
                pairs.select_columns(["query", "code"]),
                model,
                num_negatives=regime["negatives"],
                sampling_strategy="top",
                output_format="n-tuple",
                batch_size=self.evaluation_batch_size,
                verbose=False,
            )
            negatives = [name for name in mined.column_names if name.startswith("negative")]
            found = {(row["query"], row["code"]): [row[name] for name in negatives] for row in mined}
            place.mkdir()
            lines = [found.get(pair) for pair in zip(pairs["query"], pairs["code"], strict=True)]
            (place / "negatives.json").write_text(json.dumps(lines))

        _make_once(folder, make)
        negatives = json.loads((folder / "negatives.json").read_text())
        kept = [number for number, row in enumerate(negatives) if row is not None]
        pairs = pairs.select(kept)
        for position in range(regime["negatives"]):
            pairs = pairs.add_column(f"negative_{position + 1}", [negatives[number][position] for number in kept])
        return pairs


class GuidedLoss(host_losses.GISTEmbedLoss):
    """The host's GISTEmbedLoss, also for models and guides of static embeddings.

    The host asks for a tokenizer of transformers, to retokenize for another guide. A guide of the same static
    vocabulary needs none: it reads the very same ids.
    """

    def __init__(self, model: SentenceTransformer, guide: SentenceTransformer, **options: Any) -> None:
        if not is_static(model):
            super().__init__(model, guide, **options)
            return
        if not is_static(guide) or model.tokenizer.get_vocab() != guide.tokenizer.get_vocab():
            raise NotApplicable("GISTEmbedLoss cannot guide a StaticEmbedding by a model of another vocabulary.")
        nn.Module.__init__(self)
        defaults = inspect.signature(host_losses.GISTEmbedLoss).parameters
        settings = {
            name: parameter.default
            for name, parameter in defaults.items()
            if parameter.default is not inspect.Parameter.empty
        }
        for name, value in (settings | options).items():
            setattr(self, name, value)
        self.model, self.guide = model, guide
        self.must_retokenize = False
        self.similarity_fct = nn.CosineSimilarity(dim=-1)
        self.cross_entropy_loss = nn.CrossEntropyLoss()

    def sim_matrix(self, embed1: torch.Tensor, embed2: torch.Tensor) -> torch.Tensor:
        """Compare all with all, as the host does, without its (n, m, dimension) tensor.

        Args:
            embed1: ``(n, D)``.
            embed2: ``(m, D)``.

        Returns:
            ``(n, m)`` cosines.
        """
        return cos_sim(embed1, embed2)


class InGivenOrder(DefaultBatchSampler):
    """Batches of successive rows: the order is the dataset's."""

    def __init__(self, dataset: Dataset, **options: Any) -> None:
        super().__init__(torch.utils.data.SequentialSampler(dataset), **options)


def fit(
    model: SentenceTransformer,
    loss: nn.Module,
    train: Dataset,
    *,
    batch_size: int,
    learning_rate: float,
    seed: int,
    bf16: bool = False,
) -> None:
    """Train with the host's trainer on rows in their order, once: the schedule is the same for every loss.

    Args:
        model: The model.
        loss: The loss.
        train: Text columns, a multiple of the batch size long.
        batch_size: Pairs a step.
        learning_rate: Peak of a linear schedule that warms up over the first tenth.
        seed: Of dropout.
        bf16: Train with autocast to bfloat16.
    """
    steps = len(train) // batch_size
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
                warmup_steps=max(1, steps // 10),
                batch_sampler=InGivenOrder,
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
            train_dataset=train,
            loss=loss,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def versions() -> dict[str, str]:
    """Return the versions that a result depends on.

    Returns:
        Distribution to version.
    """
    from importlib.metadata import version

    found = {name: version(name) for name in ("sentence-transformers", "transformers", "torch", "mteb", "datasets")}
    return {"st-softinfonce": st_softinfonce.__version__} | found


def _given(duplicates: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in duplicates.items() if value is not None}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _make_once(folder: Path, make: Any) -> None:
    """Make a folder that several processes may want at once: whole, or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.exists():
            return
        unfinished = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
        try:
            make(unfinished)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
