"""Make the summary, the plots and the README tables of finished runs.

    python evaluation/report.py evaluation/cpu.toml evaluation/false_negatives.toml

Reads OUTPUT/results.jsonl and the numbers of every query beside it; writes evaluation/results/CONFIG.json and .svg,
and what is between the markers <!-- results:begin --> and <!-- results:end --> of evaluation/README.md and README.md.
Nothing in there is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from evaluation.bootstrap import Interval, paired_bootstrap
from evaluation.matrix import BASELINE, NO_REGIME, SOFT, Matrix
from evaluation.plots import plot_differences, plot_shares
from evaluation.schedule import expected_runs
from evaluation.scoring import METRICS
from evaluation.store import Store

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "evaluation" / "results"
HOST = "MultipleNegativesRankingLoss"
METRIC = "mrr_at_1000_duplicates"
ALL = "mean"
NAMES = {
    "mrr_at_1000_strict": "MRR, strict",
    "mrr_at_1000_duplicates": "MRR, duplicates-aware",
    "ndcg_at_10": "graded nDCG@10",
}


class Place(NamedTuple):
    """Where rows are compared: all of them are trained on the same batches there."""

    model: str
    regime: str
    share: float | None
    language: str

    @property
    def title(self) -> str:
        """Name it without its language."""
        share = "" if self.share is None else f", {self.share:.0%} duplicates"
        return f"{self.model}, {self.regime}{share}"

    @property
    def whole(self) -> Place:
        """The same place over all languages."""
        return self._replace(language=ALL)

    def __str__(self) -> str:
        """Name it."""
        return f"{self.title}, {self.language}"


def current_results(matrix: Matrix, store: Store) -> dict[str, dict[str, Any]]:
    """Read the results that a matrix as it stands asks for, and leave out those of earlier versions of its file.

    Args:
        matrix: The matrix.
        store: Its results.

    Returns:
        Results by key.

    Raises:
        ValueError: There are results of two versions of the corpus: which of them is meant cannot be told.
    """
    results = store.read()
    data: dict[tuple[str, int | None], str] = {}
    for result in results.values():
        settings = result["settings"]
        place = (settings["language"], settings["corpus"]["train_pairs"])
        if data.setdefault(place, result["data"]) != result["data"]:
            raise ValueError(
                f"{store.folder} holds results of two versions of the corpus ({place[0]}). Move the folder away, and "
                "run what is missing again."
            )
    matrix.fingerprints = lambda language, limit: data.get((language, limit), "none")
    keys = {run.key for run in expected_runs(matrix, (), results)}
    return {key: result for key, result in results.items() if key in keys}


def summarise(name: str, store: Store, found: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Summarise the results of a matrix.

    Args:
        name: Of the TOML file.
        store: Its results.
        found: Those to report, by key; ``None`` takes all.

    Returns:
        JSON primitives: one entry a place and row, languages and their mean, with differences to InfoNCE.

    Raises:
        ValueError: There are no results, or two runs of one place were scored on other queries.
    """
    found = store.read() if found is None else found
    results = [result for result in found.values() if result["settings"]["stage"] == "test"]
    scored = [result for result in results if "scores" in result]
    if not scored:
        raise ValueError(f"{store.folder} has no results yet: run evaluation/compare.py first.")
    cells: dict[Place, dict[str, dict[int | None, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for result in scored:
        settings = result["settings"]
        cells[_place(settings)][settings["row"]["name"]][settings["seed"]] = result  # the last line counts
    _spread_untrained(cells)
    entries = []
    differences: dict[tuple[Place, str], dict[str, list[np.ndarray]]] = {}
    for place, rows in sorted(cells.items(), key=str):
        for row, runs in rows.items():
            entry, table = _entry(place, row, runs, rows, store)
            entries.append(entry)
            group = differences.setdefault((place.whole, row), defaultdict(list))
            for metric, values in table.items():
                group[metric].append(values)
    entries += _means(entries, differences)
    shares = _distinct(entry["share"] for entry in entries)
    spent = [sum(result["seconds"].values()) for result in found.values() if "seconds" in result]
    script = "compare" if shares == [None] else "false_negatives"
    return {
        "command": f"python evaluation/{script}.py evaluation/{name}.toml",
        "commits": sorted({str(result["commit"]) for result in scored}),
        "versions": scored[-1]["versions"],
        "machines": _distinct(result["machine"] for result in scored),
        "runs": len(spent),
        "hours": round(sum(spent) / 3600, 2),
        "entries": entries,
        "not_applicable": _distinct(
            {"row": r["settings"]["row"]["name"], "regime": r["settings"]["regime"]["name"]}
            | {"model": r["settings"]["model"]["name"], "reason": r["not_applicable"]}
            for r in results
            if "not_applicable" in r
        ),
    }


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """Say first where Soft-InfoNCE does not beat InfoNCE.

    Args:
        summary: Of :func:`summarise`.

    Returns:
        Lines of Markdown.
    """
    soft = [
        entry
        for entry in summary["entries"]
        if entry["loss"] == SOFT and entry["language"] != ALL and "difference" in entry
    ]
    if not soft:
        return ["Nothing is compared with InfoNCE yet."]
    better = [entry for entry in soft if entry["difference"][METRIC]["low"] > 0]
    worse = [entry for entry in soft if entry["difference"][METRIC]["high"] < 0]
    unclear = len(soft) - len(better) - len(worse)
    by_place: dict[Place, list[bool]] = defaultdict(list)
    for entry in soft:
        by_place[_entry_place(entry)].append(entry["difference"][METRIC]["low"] > 0)
    nowhere = [place for place, wins in by_place.items() if not any(wins)]
    lines = [
        f"Of {len(soft)} comparisons of Soft-InfoNCE with InfoNCE (estimator and weighting, model, language, regime; "
        f"{NAMES[METRIC]}; of the same hardness, where it has any), "
        f"Soft-InfoNCE is **not better in {unclear + len(worse)}**: worse in {len(worse)}, "
        f"undecided in {unclear} (the 95% interval holds 0). It is better in {len(better)}."
    ]
    if nowhere:
        languages: dict[str, list[str]] = defaultdict(list)
        for place in nowhere:
            languages[place.title].append(place.language)
        shown = "; ".join(f"{title}: {', '.join(names)}" for title, names in languages.items())
        lines.append(f"No Soft-InfoNCE row beats InfoNCE in {len(nowhere)} of {len(by_place)} places: {shown}.")
    if worse:
        lines.append("Worse: " + "; ".join(f"{entry['row']} ({_entry_place(entry)})" for entry in worse) + ".")
    return lines


def overview(summary: Mapping[str, Any]) -> list[str]:
    """Make one table: a line a row, a column a model and regime, differences to InfoNCE as means over languages.

    Args:
        summary: Of :func:`summarise`.

    Returns:
        Lines of Markdown.
    """
    whole = [entry for entry in summary["entries"] if entry["language"] == ALL]
    places = list(dict.fromkeys(_entry_place(entry) for entry in whole))
    lines = [
        markdown_row([NAMES[METRIC], *(place.title for place in places)]),
        markdown_row(["---"] * (len(places) + 1)),
    ]
    order = [BASELINE, *(name for name in dict.fromkeys(entry["row"] for entry in whole) if name != BASELINE)]
    for name in order:
        cells = []
        for place in places:
            found = [entry for entry in whole if (entry["row"], _entry_place(entry)) == (name, place)]
            if not found:
                cells.append("")
            elif name == BASELINE:
                cells.append(f"{100 * found[0]['scores'][METRIC]:.1f}")
            else:
                cells.append(_points(found[0], METRIC) + _partly(summary, found[0]))
        against = {entry["against"] for entry in whole if entry["row"] == name} - {BASELINE}
        lines.append(markdown_row([name + "".join(f" - {other}" for other in against), *cells]))
    return [*lines, ""]


def tables(summary: Mapping[str, Any]) -> list[str]:
    """Make a table a model and regime: scores, and differences to InfoNCE in points, of each language too.

    Args:
        summary: Of :func:`summarise`.

    Returns:
        Lines of Markdown.
    """
    lines = []
    for place in dict.fromkeys(_entry_place(entry).whole for entry in summary["entries"]):
        here = [entry for entry in summary["entries"] if _entry_place(entry).whole == place]
        named = sorted({entry["language"] for entry in here} - {ALL})
        shown = named if len(named) > 1 else []
        seeds = max(entry["seeds"] for entry in here)
        lines += [f"**{place.title}** ({', '.join(named)}; {seeds} seeds)", ""]
        heads = ["row", *(NAMES[metric] for metric in METRICS), "MRR - InfoNCE", "nDCG - InfoNCE", *shown]
        lines += [markdown_row(heads), markdown_row("---" for _ in heads)]
        whole = [entry for entry in here if entry["language"] == ALL]
        order = {entry["row"]: entry["scores"][METRIC] for entry in whole}
        for entry in sorted(whole, key=lambda entry: -order[entry["row"]]):
            other = "" if entry["against"] == BASELINE else f" (against {entry['against']})"
            cells = [
                entry["row"] + _partly(summary, entry) + other,
                *(f"{100 * entry['scores'][metric]:.1f}" for metric in METRICS),
            ]
            cells += [_points(entry, METRIC), _points(entry, "ndcg_at_10")]
            for language in shown:
                found = [e for e in here if e["row"] == entry["row"] and e["language"] == language]
                cells.append(_points(found[0], METRIC) if found else "")
            lines.append(markdown_row(cells))
        lines.append("")
    return lines


def section(name: str, summary: Mapping[str, Any], *, languages: bool) -> str:
    """Make what stands between the markers for one matrix.

    Args:
        name: Of the TOML file.
        summary: Of :func:`summarise`.
        languages: Give every place's table, with each language, instead of the overview.

    Returns:
        Markdown.
    """
    lines = [f"### `{name}`", "", *(line + "\n" for line in verdict(summary))]
    machine = "; ".join(
        f"{m['device']}, {m['threads']} thread{'s' * (m['threads'] > 1)} a run" for m in summary["machines"]
    )
    plot = f"{'' if languages else 'evaluation/'}results/{name}.svg"
    lines += [
        f"`{summary['command']}`: {summary['runs']} runs, {summary['hours']} hours of runs ({machine}). Scores and "
        "differences in points (hundredths); 95% intervals of a paired bootstrap over queries with seeds as blocks; "
        "**bold** where the interval excludes 0. The scores are means over languages.",
        "",
        f"![{name}: differences to InfoNCE]({plot})",
        "",
    ]
    lines += tables(summary) if languages else overview(summary)
    for entry in summary["not_applicable"]:
        lines.append(f"Not applicable: {entry['row']} with {entry['model']}, {entry['regime']}: {entry['reason']}")
    return "\n".join(lines).rstrip() + "\n"


def write_between_markers(path: Path, content: str, name: str = "results") -> None:
    """Replace what is between the markers of a file, or say that it has none.

    Args:
        path: The file.
        content: The new content.
        name: Of the markers, ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``.
    """
    text = path.read_text() if path.exists() else ""
    begin, end = (f"<!-- {name}:{which} -->" for which in ("begin", "end"))
    if text.count(begin) != 1 or text.count(end) != 1:
        print(f"{path.name} has no markers {begin} ... {end}: left as it is.")
        return
    head, rest = text.split(begin)
    path.write_text(f"{head}{begin}\n{content}{end}{rest.split(end)[1]}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Report on the matrices named.

    Args:
        arguments: Of the command line.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", type=Path, metavar="CONFIG.toml")
    parser.add_argument("--output", type=Path, default=Path("output/evaluation"), help="default: %(default)s")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: evaluation/results")
    parser.add_argument(
        "--readme", type=Path, nargs="*", default=[ROOT / "evaluation" / "README.md", ROOT / "README.md"]
    )
    given = parser.parse_args(arguments)
    given.results.mkdir(parents=True, exist_ok=True)
    summaries = {}
    for config in given.configs:
        matrix = Matrix.from_file(config)
        store = Store(given.output / matrix.name)
        summary = summarise(matrix.name, store, current_results(matrix, store))
        summaries[matrix.name] = summary
        (given.results / f"{matrix.name}.json").write_text(json.dumps(summary, indent=1) + "\n")
        plot = plot_differences if matrix.duplicates is None else plot_shares
        plot(summary, given.results / f"{matrix.name}.svg", METRIC, NAMES)
        print("\n".join([matrix.name, *verdict(summary)]))
    for position, readme in enumerate(given.readme):
        parts = [section(name, summary, languages=position == 0) for name, summary in summaries.items()]
        write_between_markers(readme, "\n".join(parts))
    return 0


def _place(settings: Mapping[str, Any]) -> Place:
    share = None if settings["duplicates"] is None else settings["duplicates"]["share"]
    return Place(settings["model"]["name"], settings["regime"]["name"], share, settings["language"])


def _partly(summary: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """Name the languages of a mean where others have more: it is no match for the rows around it."""
    place = _entry_place(entry)
    here = [e for e in summary["entries"] if e["language"] != ALL and _entry_place(e).whole == place]
    own = {e["language"] for e in here if e["row"] == entry["row"]}
    return "" if own == {e["language"] for e in here} else f" ({', '.join(sorted(own))} alone)"


def _entry_place(entry: Mapping[str, Any]) -> Place:
    return Place(entry["model"], entry["regime"], entry["share"], entry["language"])


def _spread_untrained(cells: dict[Place, dict[str, Any]]) -> None:
    """Put what knows no regime into all regimes of its model and language."""
    for place in [place for place in cells if place.regime == NO_REGIME]:
        rows = cells.pop(place)
        for other in cells:
            if (other.model, other.language) == (place.model, place.language):
                cells[other].update(rows)


def _entry(
    place: Place,
    row: str,
    runs: Mapping[int | None, Mapping[str, Any]],
    rows: Mapping[str, Mapping[int | None, Mapping[str, Any]]],
    store: Store,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    settings = next(iter(runs.values()))["settings"]
    against = _baseline_of(settings["row"], rows)
    baseline = rows.get(against)
    scores = {metric: [run["scores"][metric] for run in runs.values()] for metric in METRICS}
    entry: dict[str, Any] = place._asdict() | {
        "row": row,
        "loss": settings["row"].get("loss"),
        "against": against,
        "seeds": len(runs),
        "queries": next(iter(runs.values()))["queries"],
        "learning_rate": settings["learning_rate"],
        "scale": settings["scale"],
        "scores": {metric: float(np.mean(values)) for metric, values in scores.items()},
        "spread_over_seeds": {metric: float(np.std(values)) for metric, values in scores.items()},
    }
    table: dict[str, np.ndarray] = {}
    if baseline is not None and row != against:
        # An untrained model is the same in every seed.
        pairs = [(runs.get(seed, runs.get(None)), run) for seed, run in baseline.items()]
        whole = [(one, other) for one, other in pairs if one is not None]
        if whole:
            table = {m: np.stack([_difference(one, other, m, store, place) for one, other in whole]) for m in METRICS}
            entry["difference"] = {metric: _json(paired_bootstrap(values)) for metric, values in table.items()}
    return entry, table


def _baseline_of(row: Mapping[str, Any], rows: Mapping[str, Mapping[int | None, Mapping[str, Any]]]) -> str:
    """Name the row without weights that a row is compared with: InfoNCE, of the same hardness if it has any."""
    hardness = {name: value for name, value in row.get("options", {}).items() if name.startswith("hardness")}
    if not hardness or row["loss"] == HOST:
        return BASELINE
    others = [next(iter(runs.values()))["settings"]["row"] for runs in rows.values()]
    same = [other["name"] for other in others if other.get("loss") == HOST and other.get("options") == hardness]
    return same[0] if same else BASELINE


def _difference(
    one: Mapping[str, Any], other: Mapping[str, Any], metric: str, store: Store, place: Place
) -> np.ndarray:
    queries, values = store.values(one["key"])
    others, baseline = store.values(other["key"])
    if queries != others:
        raise ValueError(f"{place}: runs were scored on other queries. Report on results of one corpus alone.")
    difference: np.ndarray = values[metric].astype(np.float64) - baseline[metric]
    return difference


def _means(
    entries: Iterable[dict[str, Any]], differences: Mapping[tuple[Place, str], Mapping[str, list[np.ndarray]]]
) -> list[dict[str, Any]]:
    """Make the means over languages, each counting equally; of those languages that the baseline has as well."""
    groups: dict[tuple[Place, str], list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        groups[_entry_place(entry).whole, entry["row"]].append(entry)
    means = []
    for (place, row), members in groups.items():
        mean = place._asdict() | {
            "row": row,
            "loss": members[0]["loss"],
            "against": members[0]["against"],
            "seeds": min(member["seeds"] for member in members),
            "languages": [member["language"] for member in members],
            "scores": {m: float(np.mean([member["scores"][m] for member in members])) for m in METRICS},
            "spread_over_seeds": {
                m: float(np.mean([member["spread_over_seeds"][m] for member in members])) for m in METRICS
            },
        }
        found = differences[place, row]
        if found:
            mean["difference"] = {metric: _json(paired_bootstrap(blocks)) for metric, blocks in found.items()}
        means.append(mean)
    return means


def _json(interval: Interval) -> dict[str, float]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def _points(entry: Mapping[str, Any], metric: str) -> str:
    if "difference" not in entry:
        return ""
    difference = entry["difference"][metric]
    mean, low, high = (100 * difference[name] for name in ("mean", "low", "high"))
    text = f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def markdown_row(cells: Iterable[str]) -> str:
    """Make a row of a table.

    Args:
        cells: Their texts.

    Returns:
        A line of Markdown.
    """
    return f"| {' | '.join(cells)} |"


def _distinct(items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({json.dumps(item, sort_keys=True): item for item in items}.values())


if __name__ == "__main__":
    sys.exit(main())
