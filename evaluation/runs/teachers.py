"""What several runs need and is made once: teachers, their vectors, and the hard negatives that a model finds."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from filelock import FileLock
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import mine_hard_negatives, normalize_embeddings
from torch import Tensor

from evaluation.corpus.load import Corpus, fingerprint
from evaluation.runs.base_models import load_model
from evaluation.runs.fit import fit, training_order
from evaluation.runs.plan import TEACHERS
from st_softinfonce.estimators import train_simcse

_MOST_LOADED = 4  # a plan goes through languages one after the other


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
        self._loaded: dict[Path, SentenceTransformer] = {}

    def folder(self, kind: str, settings: Mapping[str, Any]) -> Path:
        """Return the folder of a teacher for a run.

        ``"trained-model"`` is the run's base model trained with InfoNCE, ``"minilm"`` all of all-MiniLM as it is, and
        ``"minilm-tuned"`` the same trained with InfoNCE. ``"simcse"`` has a base model of its own.
        """
        recipe = settings["teachers"][kind]
        pairs = self.corpus.training_pairs(settings)
        base = {"trained-model": settings["model"], "simcse": recipe}.get(kind, {"base": "minilm"} | recipe)

        def make(place: Path) -> None:
            model = load_model(base, self.device)
            if kind == "simcse":
                model = _train_simcse(model, pairs, recipe, settings["bf16"])
            elif kind != "minilm":
                _train_with_info_nce(model, pairs, recipe, settings["bf16"])
            model.save_pretrained(str(place), create_model_card=False)

        identity = [kind, recipe, base, fingerprint(pairs)]
        return self._once(f"{kind}-{settings['language']}-{digest(identity)}", make)

    def load(self, kind: str, settings: Mapping[str, Any]) -> SentenceTransformer:
        """Load a teacher that looks its vectors of the training texts up."""
        folder = self.folder(kind, settings)
        if folder not in self._loaded:
            teacher = SentenceTransformer(str(folder), device=self.device)
            pairs = self.corpus.training_pairs(settings)

            def make(place: Path) -> None:
                texts = list(dict.fromkeys([*pairs["query"], *pairs["code"]]))
                vectors = teacher.encode(texts, batch_size=self.batch_size, convert_to_tensor=True)
                place.mkdir()
                (place / "texts.json").write_text(json.dumps(texts))
                save_file({"vectors": vectors.cpu()}, place / "vectors.safetensors")

            place = self._once(f"{folder.name}-vectors-{fingerprint(pairs)}", make)
            texts = json.loads((place / "texts.json").read_text())
            _remember(teacher, texts, load_file(place / "vectors.safetensors")["vectors"])
            if len(self._loaded) >= _MOST_LOADED:
                self._loaded.clear()
            self._loaded[folder] = teacher
        return self._loaded[folder]

    def with_negatives(self, pairs: Dataset, settings: Mapping[str, Any]) -> Dataset:
        """Add the hardest documents by the regime's miner as columns ``negative_1``, ...

        With a ``relative_margin`` they are less similar to the query than its positive by at least this share; a pair
        with too few such documents is left out.
        """
        regime = settings["regime"]
        count, miner, margin = regime["negatives"], regime["mined_by"], regime.get("relative_margin")

        def make(place: Path) -> None:
            model = self.load(miner, settings) if miner in TEACHERS else load_model(settings["model"], self.device)
            mined = mine_hard_negatives(
                pairs.select_columns(["query", "code"]),
                model,
                num_negatives=count,
                relative_margin=margin,
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

        base = self.folder(miner, settings).name if miner in TEACHERS else [miner, settings["model"]]
        identity = [count, margin, base, fingerprint(pairs)]
        folder = self._once(f"negatives-{settings['language']}-{digest(identity)}", make)
        lines = json.loads((folder / "negatives.json").read_text())
        pairs = pairs.select([number for number, line in enumerate(lines) if line is not None])
        for number, column in enumerate(zip(*filter(None, lines), strict=True), 1):
            pairs = pairs.add_column(f"negative_{number}", list(column))
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


def _remember(model: SentenceTransformer, texts: Sequence[str], vectors: Tensor) -> None:
    """Let a model's ``encode`` look these texts up instead of encoding them again."""
    place_of = {text: place for place, text in enumerate(texts)}
    encode = model.encode

    def look_up(inputs: Any, **options: Any) -> Any:
        places = [] if isinstance(inputs, str) else [place_of.get(text, -1) for text in inputs]
        if not places or min(places) < 0:
            return encode(inputs, **options)
        found = vectors[places].to(model.device)
        if options.get("normalize_embeddings"):
            found = normalize_embeddings(found)
        return found if options.get("convert_to_tensor") else found.cpu().numpy()

    model.encode = look_up  # type: ignore[method-assign]


def _train_with_info_nce(model: SentenceTransformer, pairs: Dataset, recipe: Mapping[str, Any], bf16: bool) -> None:
    order = training_order(pairs, batch_size=recipe["batch_size"], steps=recipe["steps"], seed=0)
    loss = MultipleNegativesRankingLoss(model, scale=recipe.get("scale", 20.0))
    options = {name: recipe[name] for name in ("batch_size", "learning_rate")}
    fit(model, loss, pairs.select(order), seed=0, bf16=bf16, **options)


def _train_simcse(
    model: SentenceTransformer, pairs: Dataset, recipe: Mapping[str, Any], bf16: bool
) -> SentenceTransformer:
    with tempfile.TemporaryDirectory() as checkpoints:
        return train_simcse(
            pairs["query"],
            model,
            output_dir=checkpoints,
            **{name: recipe[name] for name in ("batch_size", "epochs", "learning_rate")},
            seed=0,
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=model.device.type == "cpu",
            dataloader_pin_memory=model.device.type != "cpu",
            bf16=bf16,
        )
