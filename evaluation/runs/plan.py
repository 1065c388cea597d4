"""What a TOML file asks for, and the runs that follow from it, each known by all that its result depends on."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evaluation import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FORMAT = 2
METRICS = ("mrr_at_1000_strict", "mrr_at_1000_duplicates", "ndcg_at_10")
BEST_BY = "mrr_at_1000_duplicates"
BASELINE = "info-nce"
HOST = "MultipleNegativesRankingLoss"
UNTRAINED = "none"
TEACHERS = ("trained-model", "simcse", "minilm", "minilm-tuned")

_SECTIONS = {
    "corpus": {"folder", "train_pairs", "validation_queries", "test_queries", "candidates", "other_queries"},
    "machine": {"processes", "threads", "device", "bf16", "evaluation_batch_size"},
    "tuning": {"languages", "seed", "scales", "metric", "row", "regime", "choices_regime"},
    "duplicates": {"shares", "queries"},
}
_TABLES = {
    "models": {"base", "layers", "dimensions", "max_tokens", "train_pairs", "learning_rates", "row_rates", *TEACHERS},
    "regimes": {
        *("batch_size", "epochs", "cached", "mini_batch_size", "group_by", "scales"),
        *("negatives", "mined_by", "relative_margin"),
    },
    "rows": {"loss", "estimator", "treatment", "options", "choices"},
}
_BLOCK = {"models", "languages", "regimes", "rows", "seeds"}
_REQUIRED = {"models": ("base", "learning_rates"), "regimes": ("batch_size", "epochs"), "rows": ()}


@dataclass
class Config:
    """The content of a plan's TOML file, checked.

    Attributes:
        name: Of the file, for messages and results.
        content: All of it.
        corpus: ``folder``, and limits on pairs and queries.
        machine: ``processes``, ``threads``, ``device``, ``bf16``.
        tuning: Languages, scales and metric that settings are chosen by; with ``row`` and ``regime``, every row and
            regime gets the learning rate and scale that are best for these. A row's ``choices`` are tables of
            ``treatment``, ``options`` and so on in the place of its own; one is chosen in ``choices_regime``. There a
            row then chooses between a model's ``row_rates``, for all regimes but ``regime``.
        duplicates: ``shares`` of renamed copies to train with, or ``None``.
    """

    name: str
    content: dict[str, Any]
    corpus: dict[str, Any] = field(init=False)
    machine: dict[str, Any] = field(init=False)
    tuning: dict[str, Any] = field(init=False)
    duplicates: dict[str, Any] | None = field(init=False)

    def __post_init__(self) -> None:
        """Fill in what the file leaves out, and check the rest."""
        self.corpus = self.content.get("corpus", {})
        self.machine = {"processes": 1, "threads": 2, "bf16": False} | self.content.get("machine", {})
        self.tuning = {"scales": [20.0], "seed": 0} | self.content.get("tuning", {})
        self.duplicates = self.content.get("duplicates")
        self._check()

    @classmethod
    def read(cls, path: Path) -> Config:
        """Read a file.

        Raises:
            UsageError: It is not TOML, a name in it is unknown, or something is missing.
        """
        try:
            return cls(path.stem, tomllib.loads(path.read_text()))
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{path} is not TOML: {error}.") from error

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """The settings of each row by its name."""
        return {name: {"name": name} | row for name, row in self.content["rows"].items()}

    def entries(self, block: Mapping[str, Any], kind: str) -> list[str]:
        """List the models, regimes or rows that a block of the matrix names; ``"all"`` is all of them."""
        return list(self.content[kind]) if block[kind] == "all" else list(block[kind])

    def keep(
        self,
        *,
        languages: Sequence[str] | None = None,
        regimes: Sequence[str] | None = None,
        rows: Sequence[str] = (),
    ) -> None:
        """Leave out other languages, regimes (those of tuning stay) and rows.

        Raises:
            UsageError: Nothing is left, or there is no such row.
        """
        unknown = sorted(set(rows) - set(self.content["rows"]))
        if unknown:
            raise UsageError(f"--only names the row {unknown[0]!r}; {self.name} has {list(self.content['rows'])}.")
        for block in self.content["matrix"]:
            if languages is not None:
                block["languages"] = [language for language in block["languages"] if language in languages]
            if regimes is not None:
                block["regimes"] = [regime for regime in self.entries(block, "regimes") if regime in regimes]
            if rows:
                block["rows"] = [row for row in self.entries(block, "rows") if row in rows]
        if not any(block["languages"] for block in self.content["matrix"]):
            raise UsageError(f"{self.name} has none of the languages {list(languages or ())}.")
        if not any(block["regimes"] for block in self.content["matrix"]):
            raise UsageError(f"{self.name} has none of the regimes {list(regimes or ())}.")
        if not any(self.entries(block, "rows") for block in self.content["matrix"]):
            raise UsageError(f"{self.name} has the rows {list(rows)}, but in no [[matrix]]: add them to one.")

    def _check(self) -> None:
        _check_names(self.name, self.content, {*_SECTIONS, *_TABLES, "matrix"})
        for section in ("corpus", "matrix", *_TABLES):
            if not self.content.get(section):
                raise UsageError(f"{self.name}: [{section}] is missing.")
        for section, names in _SECTIONS.items():
            _check_names(f"{self.name}: [{section}]", self.content.get(section, {}), names)
        for kind, names in _TABLES.items():
            for entry, options in self.content[kind].items():
                _check_names(f"{self.name}: [{kind}.{entry}]", options, names)
                for required in _REQUIRED[kind]:
                    if required not in options:
                        raise UsageError(f"{self.name}: [{kind}.{entry}] has no {required!r}.")
        for number, block in enumerate(self.content["matrix"], 1):
            self._check_block(f"{self.name}: [[matrix]] number {number}", block)
        for option, kind in (("row", "rows"), ("regime", "regimes"), ("choices_regime", "regimes")):
            named = self.tuning.get(option)
            if named is not None and named not in self.content[kind]:
                raise UsageError(f"{self.name}: [tuning] names {option} {named!r}, but there is no [{kind}.{named}].")
        for name, row in self.content["rows"].items():
            for choice in row.get("choices", ()):
                _check_names(f"{self.name}: choices of [rows.{name}]", choice, _TABLES["rows"] - {"choices"})
            if row.get("choices") and "choices_regime" not in self.tuning:
                raise UsageError(f"{self.name}: [rows.{name}] has choices, but [tuning] names no choices_regime.")
        grids = [len(model["learning_rates"]) for model in self.content["models"].values()]
        grids += [len(regime.get("scales", self.tuning["scales"])) for regime in self.content["regimes"].values()]
        if max(grids) > 1 and {"languages", "metric"} - set(self.tuning):
            raise UsageError(f"{self.name}: [tuning] must name languages and a metric to choose settings by.")

    def _check_block(self, where: str, block: Mapping[str, Any]) -> None:
        _check_names(where, block, _BLOCK)
        for name in sorted(_BLOCK - set(block)):
            raise UsageError(f"{where} has no {name!r}.")
        for kind in _TABLES:
            for entry in self.entries(block, kind):
                if entry not in self.content[kind]:
                    raise UsageError(f"{where}: {kind} has {entry!r}, but there is no [{kind}.{entry}].")
        for model, row, regime in itertools.product(*(self.entries(block, k) for k in ("models", "rows", "regimes"))):
            for teacher in teachers_of(self.content["rows"][row], self.content["regimes"][regime]):
                if teacher not in self.content["models"][model]:
                    raise UsageError(f"{where}: row {row!r} needs {teacher!r} in [models.{model}].")


@dataclass(frozen=True)
class Run:
    """One training and its scores, or the scores alone of a model that is not trained.

    Attributes:
        settings: Everything that the result depends on but the data, as JSON primitives.
        data: Fingerprint of the data.
    """

    settings: Mapping[str, Any]
    data: str

    @property
    def key(self) -> str:
        """Hash of settings and data."""
        content = json.dumps([FORMAT, self.settings, self.data], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        """Say which run it is."""
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
    """What is compared, before its learning rate and scale are chosen."""

    model: str
    language: str
    regime: str
    row: str
    seeds: tuple[int, ...]
    share: float | None = None


@dataclass(frozen=True)
class Plan:
    """The runs of a file on certain data.

    Attributes:
        config: The file.
        fingerprint: Language and limit of training pairs to the fingerprint of the data.
        others: Fingerprints of sets of queries of other kinds, by name.
    """

    config: Config
    fingerprint: Callable[[str, int | None], str]
    others: Mapping[str, str] = field(default_factory=dict)

    def cells(self) -> Iterator[Cell]:
        """List the cells, block by block of the file, each once."""
        config, seen = self.config, set()
        shares = (None,) if config.duplicates is None else tuple(config.duplicates["shares"])
        for block in config.content["matrix"]:
            models, regimes, rows = (config.entries(block, kind) for kind in ("models", "regimes", "rows"))
            for place in itertools.product(models, regimes, shares, block["languages"], rows):
                if place not in seen:
                    seen.add(place)
                    model, regime, share, language, row = place
                    yield Cell(model, language, regime, row, tuple(block["seeds"]), share)

    def tuning_runs(self, cell: Cell) -> list[Run]:
        """List the runs on validation packages that choose a cell's learning rate and scale.

        The grid is the same for every row, or one row's choice is every row's. With duplicates the choice is made
        without any: their effect is compared.
        """
        tuning = self.config.tuning
        if self._is_trained(cell):
            cell = replace(cell, row=tuning.get("row", cell.row), regime=tuning.get("regime", cell.regime))
        grid = self._grid(cell)
        if len(grid) == 1:
            return []
        share = None if cell.share is None else 0.0
        return [
            self._run("tune", cell, language, share, rate, scale, tuning["seed"])
            for rate, scale in grid
            for language in tuning["languages"]
        ]

    def choice_runs(self, cell: Cell, results: Mapping[str, Mapping[str, Any]]) -> list[Run]:
        """List the runs on validation packages that choose between the ``choices`` of a cell's row."""
        tuning, rows = self.config.tuning, self._rows(cell)
        if len(rows) == 1:
            return []
        place = replace(cell, regime=tuning["choices_regime"])
        rate, scale = self._chosen_rate(cell, results)
        return [
            self._run("tune", place, language, cell.share, rate, scale, tuning["seed"], row)
            for row in rows
            for language in tuning["languages"]
        ]

    def test_runs(self, cell: Cell, results: Mapping[str, Mapping[str, Any]]) -> list[Run]:
        """List a cell's runs on the test packages: one a seed, or one alone if nothing is trained.

        The results of tuning, by key, choose the settings by their mean over languages; while one is missing, the
        settings are the first ones.
        """
        row = self._chosen_row(cell, results)
        rate, scale = self._chosen_rate(cell, results)
        rate = self._best(self.rate_runs(cell, results), results, lambda run: run.settings["learning_rate"]) or rate
        seeds: Sequence[int | None] = cell.seeds if self._is_trained(cell) else [None]
        return [self._run("test", cell, cell.language, cell.share, rate, scale, seed, row) for seed in seeds]

    def rate_runs(self, cell: Cell, results: Mapping[str, Mapping[str, Any]]) -> list[Run]:
        """List the runs on validation packages that choose a row's own learning rate, with its chosen options."""
        tuning = self.config.tuning
        rates = self.config.content["models"][cell.model].get("row_rates", ())
        if not self._is_trained(cell) or cell.regime == tuning.get("regime"):
            return []
        place = replace(cell, regime=tuning.get("choices_regime", cell.regime))
        row, (_, scale) = self._chosen_row(cell, results), self._chosen_rate(cell, results)
        return [
            self._run("tune", place, language, cell.share, rate, scale, tuning["seed"], row)
            for rate in rates
            for language in tuning["languages"]
        ]

    def _chosen_row(self, cell: Cell, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        rows = self._rows(cell)
        best = self._best(self.choice_runs(cell, results), results, lambda run: rows.index(run.settings["row"]))
        return rows[best or 0]

    def _chosen_rate(self, cell: Cell, results: Mapping[str, Mapping[str, Any]]) -> tuple[float | None, float | None]:
        def point(run: Run) -> tuple[float | None, float | None]:
            return run.settings["learning_rate"], run.settings["scale"]

        return self._best(self.tuning_runs(cell), results, point) or self._grid(cell)[0]

    def _best(
        self, runs: Iterable[Run], results: Mapping[str, Mapping[str, Any]], choice: Callable[[Run], Any]
    ) -> Any:
        """Return the choice with the best mean over languages; ``None`` while a result is missing."""
        tuned: dict[Any, list[float]] = {}
        for run in runs:
            result = results.get(run.key)
            if result is None:
                return None
            if "scores" in result:  # not one that is not applicable, as the test runs will say too
                tuned.setdefault(choice(run), []).append(result["scores"][self.config.tuning["metric"]])
        return max(tuned, key=lambda one: sum(tuned[one]) / len(tuned[one]), default=None)

    def _rows(self, cell: Cell) -> list[dict[str, Any]]:
        row = dict(self.config.rows[cell.row])
        choices = row.pop("choices", None) or [{}]
        return [row | choice for choice in choices]

    def all_runs(self, results: Mapping[str, Mapping[str, Any]]) -> list[Run]:
        """List every run, as far as results of tuning say which they are."""
        runs = [
            run
            for cell in self.cells()
            for stage in (self.choice_runs, self.rate_runs, self.test_runs)
            for run in (*self.tuning_runs(cell), *stage(cell, results))
        ]
        return list({run.key: run for run in runs}.values())

    def _grid(self, cell: Cell) -> list[tuple[float | None, float | None]]:
        if not self._is_trained(cell):
            return [(None, None)]
        scales = self.config.content["regimes"][cell.regime].get("scales", self.config.tuning["scales"])
        return list(itertools.product(self.config.content["models"][cell.model]["learning_rates"], scales))

    def _is_trained(self, cell: Cell) -> bool:
        return "loss" in self.config.content["rows"][cell.row]

    def _run(
        self,
        stage: str,
        cell: Cell,
        language: str,
        share: float | None,
        learning_rate: float | None,
        scale: float | None,
        seed: int | None,
        row: Mapping[str, Any] | None = None,
    ) -> Run:
        config = self.config
        row = row or config.rows[cell.row]
        model = {"name": cell.model} | config.content["models"][cell.model]
        regime = {"name": cell.regime} | config.content["regimes"][cell.regime]
        needed = teachers_of(row, regime)
        limit = model.get("train_pairs", config.corpus.get("train_pairs"))
        if not self._is_trained(cell):  # one run for all regimes
            regime, share = {"name": UNTRAINED}, None
        duplicates = None
        if share is not None:
            duplicates = {k: v for k, v in (config.duplicates or {}).items() if k != "shares"} | {"share": share}
        settings = {
            "stage": stage,
            "model": {
                name: value for name, value in model.items() if name not in ("learning_rates", "row_rates", *TEACHERS)
            },
            "language": language,
            "regime": {name: value for name, value in regime.items() if name != "scales"},
            "row": row,
            "seed": seed,
            "learning_rate": learning_rate,
            "scale": scale,
            "corpus": {
                "train_pairs": limit,
                "queries": config.corpus.get("validation_queries" if stage == "tune" else "test_queries"),
                "candidates": config.corpus.get("candidates"),
            },
            "duplicates": duplicates,
            "teachers": {kind: model[kind] for kind in TEACHERS if kind in needed},
            "bf16": config.machine["bf16"],
        }
        if self.others:
            settings["other_queries"] = dict(self.others)
        return Run(settings, self.fingerprint(language, limit))


def name_and_options(value: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Read an estimator or a treatment of a row: ``"bm25"``, or ``{ name = "bm25", tokenizer = "words" }``."""
    options = {"name": value} if isinstance(value, str) else dict(value)
    return options.pop("name"), options


def treatments_of(value: Any) -> list[Any]:
    """Read a row's treatments: one, or a list of several."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def teacher_of(estimator: str | Mapping[str, Any]) -> str:
    """Name an estimator's teacher: ``{ name = "trained-model", teacher = "minilm" }``, or its own name."""
    name, options = name_and_options(estimator)
    return str(options.get("teacher", name))


def teachers_of(row: Mapping[str, Any], regime: Mapping[str, Any]) -> set[str]:
    """Say which of ``TEACHERS`` a row needs: for its estimator, to be scored itself, or to mine negatives."""
    names = {regime.get("mined_by")} if regime.get("negatives") and "loss" in row else set()
    if "estimator" in row:
        parts = name_and_options(row["estimator"])[1].get("parts", ())
        names |= {teacher_of(one) for one in (row["estimator"], *parts)}
    return names & set(TEACHERS)


def _check_names(where: str, found: Iterable[str], allowed: Iterable[str]) -> None:
    unknown = sorted(set(found) - set(allowed))
    if unknown:
        raise UsageError(f"{where} has {unknown[0]!r}; known are {sorted(allowed)}.")
