"""The runs that a TOML file declares, each identified by everything that its result depends on."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


FORMAT = 1
BASELINE = "info-nce"
SOFT = "SoftInfoNCELoss"
NO_REGIME = "none"
TEACHERS = ("trained-model", "simcse")

_SECTIONS = {
    "corpus": {"folder", "train_pairs", "validation_queries", "test_queries", "candidates"},
    "machine": {"processes", "threads", "device", "bf16", "evaluation_batch_size"},
    "tuning": {"languages", "seed", "scales", "metric"},
    "duplicates": {"shares", "queries", "groups_from"},
}
_TABLES = {
    "models": {"base", "layers", "dimensions", "max_tokens", "train_pairs", "learning_rates", "teacher", "simcse"},
    "regimes": {"batch_size", "epochs", "cached", "mini_batch_size", "group_by", "negatives", "mined_by", "scales"},
    "rows": {"loss", "options", "estimator", "estimator_options", "parts", "guide"},
}
_BLOCK = {"models", "languages", "regimes", "rows", "seeds"}
_REQUIRED = {"models": ("base", "learning_rates"), "regimes": ("batch_size", "epochs"), "rows": ()}


@dataclass(frozen=True)
class Run:
    """One cell of the matrix.

    Attributes:
        settings: Everything the result depends on but the data, as JSON primitives.
        data: Fingerprint of the data.
    """

    settings: Mapping[str, Any]
    data: str

    @property
    def key(self) -> str:
        """Hash of settings and data."""
        content = json.dumps([FORMAT, self.settings, self.data], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def group(self) -> tuple[str, str, str]:
        """What takes about as long: stage, model and regime."""
        return self.settings["stage"], self.settings["model"]["name"], self.settings["regime"]["name"]

    def __str__(self) -> str:
        """Say which cell it is."""
        settings = self.settings
        parts = [settings["stage"], settings["model"]["name"], settings["language"], settings["regime"]["name"]]
        if settings["duplicates"] is not None:
            parts.append(f"{settings['duplicates']['share']:.0%} duplicates")
        parts.append(settings["row"]["name"])
        if settings["learning_rate"] is not None:
            parts.append(f"lr {settings['learning_rate']:g}, scale {settings['scale']:g}, seed {settings['seed']}")
        return " / ".join(parts)


@dataclass(frozen=True)
class Cell:
    """A cell before its learning rate and scale are chosen."""

    model: str
    language: str
    regime: str
    row: str
    seeds: tuple[int, ...]
    share: float | None = None


class Matrix:
    """What a TOML file declares.

    Args:
        content: The file's content.
        name: For messages and results.
        fingerprints: Language and train-pairs limit to the fingerprint of the data.

    Raises:
        ValueError: A name is unknown, or something is missing.
    """

    def __init__(
        self, content: Mapping[str, Any], *, name: str, fingerprints: Callable[[str, int | None], str] | None = None
    ) -> None:
        self.name = name
        self.content = content
        self.corpus: dict[str, Any] = dict(content.get("corpus", {}))
        self.machine: dict[str, Any] = {"processes": 1, "threads": 2, "bf16": False} | content.get("machine", {})
        self.tuning: dict[str, Any] = {"scales": [20.0], "seed": 0} | content.get("tuning", {})
        self.duplicates: dict[str, Any] | None = content.get("duplicates")
        self.fingerprints = fingerprints
        self._check()

    @classmethod
    def from_file(cls, path: Path, **options: Any) -> Matrix:
        """Read a TOML file.

        Args:
            path: Of the file.
            **options: Of the class.

        Returns:
            The matrix.
        """
        return cls(tomllib.loads(path.read_text()), name=path.stem, **options)

    def cells(self, only: Iterable[str] = ()) -> Iterator[Cell]:
        """List the cells, block by block, the baseline first.

        Args:
            only: Rows to keep; none keeps all.

        Yields:
            Cells.
        """
        only = set(only)
        unknown = sorted(only - set(self.content["rows"]))
        if unknown:
            raise ValueError(f"--only names the row {unknown[0]!r}; {self.name} has {list(self.content['rows'])}.")
        shares = (None,) if self.duplicates is None else tuple(self.duplicates["shares"])
        seen = set()
        for block in self.content["matrix"]:
            rows = self._names(block, "rows")
            rows = [row for row in rows if not only or row in only]
            for model, regime, share, language, row in itertools.product(
                self._names(block, "models"), self._names(block, "regimes"), shares, block["languages"], rows
            ):
                if (model, regime, share, language, row) not in seen:
                    seen.add((model, regime, share, language, row))
                    yield Cell(model, language, regime, row, tuple(block["seeds"]), share)

    def keep_languages(self, languages: Sequence[str]) -> None:
        """Leave out the other languages; those of tuning stay.

        Args:
            languages: To keep.

        Raises:
            ValueError: None of them is in the matrix.
        """
        for block in self.content["matrix"]:
            block["languages"] = [language for language in block["languages"] if language in languages]
        if not any(block["languages"] for block in self.content["matrix"]):
            raise ValueError(f"{self.name} has none of the languages {list(languages)}.")

    def grid(self, cell: Cell) -> list[tuple[float | None, float | None]]:
        """List the learning rates and scales that are tried for a cell: the same for every row.

        Args:
            cell: The cell.

        Returns:
            Pairs; one without values if nothing is trained.
        """
        if self._is_zero_shot(cell):
            return [(None, None)]
        scales = self.content["regimes"][cell.regime].get("scales", self.tuning["scales"])
        return list(itertools.product(self.content["models"][cell.model]["learning_rates"], scales))

    def tuning_runs(self, cell: Cell) -> list[Run]:
        """List the runs on validation packages that choose a cell's learning rate and scale.

        Args:
            cell: The cell; its language and share of duplicates do not matter.

        Returns:
            None if there is nothing to choose.
        """
        grid = self.grid(cell)
        if len(grid) == 1:
            return []
        # One choice for all shares of duplicates, made without any: the share is what is being compared there.
        share = None if cell.share is None else 0.0
        return [
            self._run("tune", cell, language, share, rate, scale, self.tuning["seed"])
            for rate, scale in grid
            for language in self.tuning["languages"]
        ]

    def choose(self, cell: Cell, results: Mapping[str, Mapping[str, Any]]) -> tuple[float | None, float | None] | None:
        """Choose a cell's learning rate and scale by the mean over the tuning languages.

        Args:
            cell: The cell.
            results: By the key of their run.

        Returns:
            The pair; ``None`` while a tuning run has no result.
        """
        runs = self.tuning_runs(cell)
        if not runs:
            return self.grid(cell)[0]
        found: dict[tuple[float, float], list[float]] = {}
        for run in runs:
            result = results.get(run.key)
            if result is None:
                return None
            if "scores" in result:
                point = (run.settings["learning_rate"], run.settings["scale"])
                found.setdefault(point, []).append(result["scores"][self.tuning["metric"]])
        if not found:
            return self.grid(cell)[0]  # not applicable, as the run itself will say
        return max(found, key=lambda point: sum(found[point]) / len(found[point]))

    def test_runs(self, cell: Cell, learning_rate: float | None, scale: float | None) -> list[Run]:
        """List a cell's runs on the test packages.

        Args:
            cell: The cell.
            learning_rate: As chosen.
            scale: As chosen.

        Returns:
            One a seed; one alone if nothing is trained.
        """
        seeds: Sequence[int | None] = [None] if self._is_zero_shot(cell) else cell.seeds
        return [self._run("test", cell, cell.language, cell.share, learning_rate, scale, seed) for seed in seeds]

    def _run(
        self,
        stage: str,
        cell: Cell,
        language: str,
        share: float | None,
        learning_rate: float | None,
        scale: float | None,
        seed: int | None,
    ) -> Run:
        model = self.content["models"][cell.model]
        row = {"name": cell.row} | self.content["rows"][cell.row]
        regime = {"name": cell.regime} | self.content["regimes"][cell.regime]
        regime.pop("scales", None)
        needed = teachers_of(row, regime)
        limit = model.get("train_pairs", self.corpus.get("train_pairs"))
        options = {name: value for name, value in model.items() if name not in ("learning_rates", "teacher", "simcse")}
        if self._is_zero_shot(cell):  # one run for all regimes
            regime, share = {"name": NO_REGIME}, None
        queries = "validation_queries" if stage == "tune" else "test_queries"
        assert self.fingerprints is not None
        settings = {
            "stage": stage,
            "model": {"name": cell.model} | options,
            "language": language,
            "regime": regime,
            "row": row,
            "seed": seed,
            "learning_rate": learning_rate,
            "scale": scale,
            "corpus": {
                "train_pairs": limit,
                "queries": self.corpus.get(queries),
                "candidates": self.corpus.get("candidates"),
            },
            "duplicates": None if share is None else {**(self.duplicates or {}), "shares": None, "share": share},
            "teachers": {
                "trained-model": model.get("teacher") if "trained-model" in needed else None,
                "simcse": model.get("simcse") if "simcse" in needed else None,
            },
            "bf16": self.machine["bf16"],
        }
        return Run(settings, self.fingerprints(language, limit))

    def _is_zero_shot(self, cell: Cell) -> bool:
        return "loss" not in self.content["rows"][cell.row]

    def _names(self, block: Mapping[str, Any], kind: str) -> list[str]:
        return list(self.content[kind]) if block[kind] == "all" else list(block[kind])

    def _check(self) -> None:
        allowed = {*_SECTIONS, *_TABLES, "matrix"}
        _check_names(self.name, self.content, allowed)
        for section in ("corpus", "matrix", *_TABLES):
            if not self.content.get(section):
                raise ValueError(f"{self.name}: [{section}] is missing.")
        for section, names in _SECTIONS.items():
            _check_names(f"{self.name}: [{section}]", self.content.get(section, {}), names)
        for kind, names in _TABLES.items():
            for entry, options in self.content[kind].items():
                _check_names(f"{self.name}: [{kind}.{entry}]", options, names)
                for required in _REQUIRED[kind]:
                    if required not in options:
                        raise ValueError(f"{self.name}: [{kind}.{entry}] has no {required!r}.")
        for number, block in enumerate(self.content["matrix"], 1):
            where = f"{self.name}: [[matrix]] number {number}"
            _check_names(where, block, _BLOCK)
            for name in _BLOCK - set(block):
                raise ValueError(f"{where} has no {name!r}.")
            for kind in _TABLES:
                for entry in self._names(block, kind):
                    if entry not in self.content[kind]:
                        raise ValueError(f"{where}: {kind} has {entry!r}, but there is no [{kind}.{entry}].")
            for model, row, regime in itertools.product(
                *(self._names(block, k) for k in ("models", "rows", "regimes"))
            ):
                for teacher in teachers_of(self.content["rows"][row], self.content["regimes"][regime]):
                    section = "teacher" if teacher == "trained-model" else "simcse"
                    if section not in self.content["models"][model]:
                        raise ValueError(f"{where}: row {row!r} needs [models.{model}.{section}].")
        grids = [len(model["learning_rates"]) for model in self.content["models"].values()]
        grids += [len(regime.get("scales", self.tuning["scales"])) for regime in self.content["regimes"].values()]
        if max(grids) > 1 and {"languages", "metric"} - set(self.tuning):
            raise ValueError(f"{self.name}: [tuning] must name languages and a metric to choose settings by.")


def teachers_of(row: Mapping[str, Any], regime: Mapping[str, Any]) -> set[str]:
    """Say which teachers a row needs.

    Args:
        row: Its settings.
        regime: Negatives may be mined by a teacher, for every row.

    Returns:
        Names among :data:`TEACHERS`.
    """
    names = {row.get("estimator"), row.get("guide"), *row.get("parts", ())}
    if regime.get("negatives") and "loss" in row:
        names.add(regime.get("mined_by"))
    return names & set(TEACHERS)


def _check_names(where: str, found: Iterable[str], allowed: Iterable[str]) -> None:
    unknown = sorted(set(found) - set(allowed))
    if unknown:
        raise ValueError(f"{where} has {unknown[0]!r}, which is none of {sorted(allowed)}.")
