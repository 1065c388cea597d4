"""What several runs need and is made once: teachers, and the hard negatives that a teacher or the base model finds."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from filelock import FileLock
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import mine_hard_negatives

from evaluation.corpus.load import Corpus, fingerprint
from evaluation.runs.base_models import load_model
from evaluation.runs.fit import fit, training_order
from evaluation.runs.plan import TEACHERS
from st_softinfonce.estimators import train_simcse


class Teachers:
    """Makes teachers and hard negatives on first use, and keeps them in a folder that several processes may share.

    Args:
        cache: The folder.
        corpus: What teachers are trained on: a run's own training pairs.
        device: ``None`` takes what torch finds.
        batch_size: Texts encoded at a time.
    """

    def __init__(self, cache: Path, corpus: Corpus, *, device: str | None = None, batch_size: int = 128) -> None:
        self.cache = cache
        self.corpus = corpus
        self.device = device
        self.batch_size = batch_size

    def folder(self, kind: str, settings: Mapping[str, Any]) -> Path:
        """Return the folder of a teacher.

        Args:
            kind: ``"trained-model"``, the run's base model trained with InfoNCE; or ``"simcse"``.
            settings: Of the run that needs it, with the teacher's recipe.
        """
        recipe = settings["teachers"][kind]
        pairs = self.corpus.training_pairs(settings)
        base = settings["model"] if kind == "trained-model" else recipe
        train = _train_with_info_nce if kind == "trained-model" else _train_simcse

        def make(place: Path) -> None:
            model = load_model(base, self.device)
            train(model, pairs, recipe, settings["bf16"]).save_pretrained(str(place), create_model_card=False)

        identity = [kind, recipe, base, fingerprint(pairs)]
        return self._once(f"{kind}-{settings['language']}-{digest(identity)}", make)

    def load(self, kind: str, settings: Mapping[str, Any]) -> SentenceTransformer:
        """Load a teacher, made if need be."""
        return SentenceTransformer(str(self.folder(kind, settings)), device=self.device)

    def with_negatives(self, pairs: Dataset, settings: Mapping[str, Any]) -> Dataset:
        """Add the hardest documents by the regime's miner, unfiltered, as columns ``negative_1``, ...

        Pairs that it finds too few for are left out.
        """
        count, miner = settings["regime"]["negatives"], settings["regime"]["mined_by"]
        columns = [f"negative_{number + 1}" for number in range(count)]

        def make(place: Path) -> None:
            model = self.load(miner, settings) if miner in TEACHERS else load_model(settings["model"], self.device)
            mined = mine_hard_negatives(
                pairs.select_columns(["query", "code"]),
                model,
                num_negatives=count,
                sampling_strategy="top",
                output_format="n-tuple",
                batch_size=self.batch_size,
                verbose=False,
            )
            found = [name for name in mined.column_names if name.startswith("negative")]
            by_pair = {(row["query"], row["code"]): [row[name] for name in found] for row in mined}
            lines = [by_pair.get(pair) for pair in zip(pairs["query"], pairs["code"], strict=True)]
            place.mkdir()
            (place / "negatives.json").write_text(json.dumps(lines))

        identity = [count, miner, settings["teachers"].get(miner), settings["model"], fingerprint(pairs)]
        folder = self._once(f"negatives-{settings['language']}-{digest(identity)}", make)
        negatives = json.loads((folder / "negatives.json").read_text())
        kept = [number for number, row in enumerate(negatives) if row is not None]
        pairs = pairs.select(kept)
        for position, column in enumerate(columns):
            pairs = pairs.add_column(column, [negatives[number][position] for number in kept])
        return pairs

    def _once(self, name: str, make: Callable[[Path], None]) -> Path:
        """Make a folder that several processes may want at once: whole, or not at all."""
        folder = self.cache / name
        self.cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                unfinished = folder.with_name(f".{name}-{uuid.uuid4().hex}")
                try:
                    make(unfinished)
                    unfinished.rename(folder)
                finally:
                    shutil.rmtree(unfinished, ignore_errors=True)
        return folder


def digest(value: object) -> str:
    """Hash JSON primitives to 12 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _train_with_info_nce(
    model: SentenceTransformer, pairs: Dataset, recipe: Mapping[str, Any], bf16: bool
) -> SentenceTransformer:
    order = training_order(pairs, batch_size=recipe["batch_size"], steps=recipe["steps"], seed=0)
    fit(
        model,
        MultipleNegativesRankingLoss(model, scale=recipe.get("scale", 20.0)),
        pairs.select(order),
        batch_size=recipe["batch_size"],
        learning_rate=recipe["learning_rate"],
        seed=0,
        bf16=bf16,
    )
    return model


def _train_simcse(
    model: SentenceTransformer, pairs: Dataset, recipe: Mapping[str, Any], bf16: bool
) -> SentenceTransformer:
    with tempfile.TemporaryDirectory() as checkpoints:
        return train_simcse(
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
            bf16=bf16,
        )
