"""Sum finished runs up: scores, and differences to the baseline with their intervals, place by place."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from evaluation import UsageError
from evaluation.report.tables import ALL
from evaluation.runs.losses import kind_of
from evaluation.runs.plan import BASELINE, BEST_BY, HOST, UNTRAINED, Config, Plan
from evaluation.runs.store import Store
from st_softinfonce.tasks import mean_interval

_SHARED_OPTIONS = ("hardness_mode", "hardness_strength", "directions", "partition_mode")  # not the treatments'

Result = Mapping[str, Any]
Differences = dict[str, np.ndarray]  # by metric, (seeds, queries)
_Runs = Mapping[int | None, Result]  # by seed


class Place(NamedTuple):
    """Where rows are compared: all of them are trained on the same batches there."""

    model: str
    regime: str
    share: float | None
    language: str


_Blocks = dict[tuple[Place, str, str], list[Differences]]  # by place, row and what it is compared with


def current_results(config: Config, store: Store) -> dict[str, dict[str, Any]]:
    """Read the results that a plan asks for as it stands, without those of earlier versions of its file.

    Raises:
        UsageError: There are results of two versions of the corpus: which of them is meant cannot be told.
    """
    results = store.read()
    data: dict[tuple[str, int | None], str] = {}
    for result in results.values():
        place = (result["settings"]["language"], result["settings"]["corpus"]["train_pairs"])
        if data.setdefault(place, result["data"]) != result["data"]:
            raise UsageError(
                f"{store.folder} holds results of two versions of the corpus ({place[0]}). Move the folder away, and "
                "run what is missing again."
            )
    others = next((r["settings"]["other_queries"] for r in results.values() if "other_queries" in r["settings"]), {})
    plan = Plan(config, lambda language, limit: data.get((language, limit), "none"), others)
    keys = {run.key for run in plan.all_runs(results)}
    return {key: result for key, result in results.items() if key in keys}


def summarise(name: str, store: Store, results: Mapping[str, Result]) -> dict[str, Any]:
    """Summarise results.

    Args:
        name: Of the plan.
        store: Has the numbers of every query.
        results: By key.

    Returns:
        JSON primitives: one entry a place and row, and one over all languages of the place, with differences to the
        baseline where there is one, and ``to_best`` to the baseline of the regime where it is best, where several
        regimes are compared.

    Raises:
        UsageError: There are no results, or two runs of one place were scored on other queries.
    """
    tested = [result for result in results.values() if result["settings"]["stage"] == "test"]
    scored = [result for result in tested if "scores" in result]
    if not scored:
        raise UsageError(f"{store.folder} has no results yet: `python -m evaluation run {name}` makes them.")
    entries: list[dict[str, Any]] = []
    blocks: _Blocks = defaultdict(list)
    places = _by_place(scored)
    best = _best_baselines(places)
    for place, rows in sorted(places.items(), key=str):
        for row, runs in rows.items():
            against = _baseline_of(row, rows)
            entry = place._asdict() | _scores_of(row, runs) | {"against": against}
            compared = {"difference": rows[against]} if row != against and against in rows else {}
            other = best.get(place._replace(regime=ALL))
            if other is not None and other is not runs:
                compared["to_best"] = other
            for which, baseline in compared.items():
                differences = _differences(runs, baseline, store, place)
                if differences:
                    entry[which] = _intervals([differences])
                    blocks[place._replace(language=ALL), row, which].append(differences)
            entries.append(entry)
    spent = [sum(result["seconds"].values()) for result in results.values() if "seconds" in result]
    return {
        "command": f"python -m evaluation run {name}",
        "commits": sorted({str(result["commit"]) for result in scored}),
        "versions": scored[-1]["versions"],
        "machines": _distinct(result["machine"] for result in scored),
        "runs": len(spent),
        "hours": round(sum(spent) / 3600, 2),
        "rows": {result["settings"]["row"]["name"]: result["settings"]["row"] for result in scored},
        "chosen": sorted(_chosen(results.values())),
        "entries": entries + _over_languages(entries, blocks),
        "not_applicable": _distinct(
            {kind: result["settings"][kind]["name"] for kind in ("row", "regime", "model")}
            | {"reason": result["not_applicable"]}
            for result in tested
            if "not_applicable" in result
        ),
    }


def _chosen(results: Iterable[Result]) -> set[str]:
    """Name the rows that were tuned with several settings of their own."""
    tuned: dict[str, set[str]] = defaultdict(set)
    for result in results:
        if result["settings"]["stage"] == "tune":
            row = result["settings"]["row"]
            tuned[row["name"]].add(json.dumps(row, sort_keys=True))
    return {name for name, settings in tuned.items() if len(settings) > 1}


def _best_baselines(places: Mapping[Place, Mapping[str, _Runs]]) -> dict[Place, _Runs]:
    """Find, for each model and language with InfoNCE in several regimes, its runs in that where it scores best."""
    found: dict[Place, list[_Runs]] = defaultdict(list)
    for place, rows in places.items():
        if BASELINE in rows:
            found[place._replace(regime=ALL)].append(rows[BASELINE])

    def score(runs: _Runs) -> float:
        return float(np.mean([run["scores"][BEST_BY] for run in runs.values()]))

    return {place: max(several, key=score) for place, several in found.items() if len(several) > 1}


def _by_place(results: Iterable[Result]) -> dict[Place, dict[str, dict[int | None, Result]]]:
    """Sort results by place, row and seed; what is not trained is put into all regimes of its model and language."""
    places: dict[Place, dict[str, dict[int | None, Result]]] = defaultdict(lambda: defaultdict(dict))
    for result in results:
        settings = result["settings"]
        share = None if settings["duplicates"] is None else settings["duplicates"]["share"]
        place = Place(settings["model"]["name"], settings["regime"]["name"], share, settings["language"])
        places[place][settings["row"]["name"]][settings["seed"]] = result  # the last line counts
    for place in [place for place in places if place.regime == UNTRAINED]:
        rows = places.pop(place)
        for other in places:
            if (other.model, other.language) == (place.model, place.language):
                places[other].update(rows)
    return places


def _scores_of(row: str, runs: Mapping[int | None, Result]) -> dict[str, Any]:
    first = next(iter(runs.values()))
    scores = {metric: [run["scores"][metric] for run in runs.values()] for metric in first["scores"]}
    return {
        "row": row,
        "loss": first["settings"]["row"].get("loss"),
        "kind": kind_of(first["settings"]["row"]),
        "seeds": len(runs),
        "queries": first["queries"],
        "learning_rate": first["settings"]["learning_rate"],
        "scale": first["settings"]["scale"],
        "scores": {metric: float(np.mean(values)) for metric, values in scores.items()},
        "spread_over_seeds": {metric: float(np.std(values)) for metric, values in scores.items()},
    }


def _baseline_of(row: str, rows: Mapping[str, Mapping[int | None, Result]]) -> str:
    """Name the row without an estimator that a row is compared with: InfoNCE, of the same options if there is one."""
    settings = {name: next(iter(runs.values()))["settings"]["row"] for name, runs in rows.items()}
    options = {name: value for name, value in settings[row].get("options", {}).items() if name in _SHARED_OPTIONS}
    if not options or settings[row]["loss"] == HOST:
        return BASELINE
    same = [name for name, other in settings.items() if other.get("loss") == HOST and other.get("options") == options]
    return same[0] if same else BASELINE


def _differences(
    runs: Mapping[int | None, Result], baseline: Mapping[int | None, Result], store: Store, place: Place
) -> Differences:
    """Subtract the baseline's numbers of every query, seed by seed; nothing where no seed is done in both."""
    tables: dict[str, list[np.ndarray]] = defaultdict(list)
    for seed, other in baseline.items():
        run = runs.get(seed, runs.get(None))  # an untrained model is the same in every seed
        if run is None:
            continue
        queries, values = store.values(run["key"])
        others, subtracted = store.values(other["key"])
        if queries != others:
            raise UsageError(f"{place}: runs were scored on other queries. Report on results of one corpus alone.")
        for metric in run["scores"]:
            tables[metric].append(values[metric].astype(np.float64) - subtracted[metric])
    return {metric: np.stack(table) for metric, table in tables.items()}


def _over_languages(entries: Iterable[Mapping[str, Any]], blocks: _Blocks) -> list[dict[str, Any]]:
    """Make the means over languages, each counting equally; differences over those that the baseline has as well."""
    groups: dict[tuple[Place, str], list[Mapping[str, Any]]] = defaultdict(list)
    for entry in entries:
        groups[Place(entry["model"], entry["regime"], entry["share"], ALL), entry["row"]].append(entry)
    means = []
    for (place, row), members in groups.items():
        mean = place._asdict() | {name: members[0][name] for name in ("row", "loss", "kind", "against")}
        mean["seeds"] = min(member["seeds"] for member in members)
        mean["languages"] = [member["language"] for member in members]
        for name in ("scores", "spread_over_seeds"):
            mean[name] = {m: float(np.mean([member[name][m] for member in members])) for m in members[0][name]}
        for name in ("difference", "to_best"):
            if (place, row, name) in blocks:
                mean[name] = _intervals(blocks[place, row, name])
        means.append(mean)
    return means


def _intervals(languages: list[Differences]) -> dict[str, dict[str, float]]:
    return {metric: mean_interval([one[metric] for one in languages])._asdict() for metric in languages[0]}


def _distinct(items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({json.dumps(item, sort_keys=True): item for item in items}.values())
