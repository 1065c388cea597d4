"""The figures: the same bytes for the same numbers, and legible on white and on dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.report.tables import (
    ALL,
    GAINS_REGIME,
    GAINS_ROWS,
    GAINS_TEACHERS,
    METHODS,
    METRIC,
    NAMES,
    TRANSFORMER,
    TRANSFORMER_PLACE,
    headline_entries,
)

# As far from white as from black, in contrast: there is no background.
INK = "#797979"
# At least 3:1 against white and against a dark page, and told apart by readers with any colour vision.
COLOURS = ("#2F81C5", "#D55E00", "#009E73", "#B565A7", "#A8820F", INK)
MARKERS = ("o", "s", "^", "D", "v", "P")
COLUMNS = 4
mpl.rcParams.update(
    {
        "svg.hashsalt": "st-softinfonce",
        "svg.fonttype": "none",
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "legend.facecolor": "none",
        "legend.frameon": False,
        "grid.color": INK,
        "grid.alpha": 0.35,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    }
)


def save(figure: Figure, path: Path) -> None:
    """Write a figure."""
    options: dict[str, Any] = {"metadata": {"Date": None}} if path.suffix == ".svg" else {"dpi": 110}
    figure.savefig(path, bbox_inches="tight", **options)


def plan_figure(summary: Mapping[str, Any]) -> Figure:
    """Draw a plan's differences to InfoNCE: over shares of duplicates, over alpha and beta, or row by row."""
    entries = [e for e in summary["entries"] if e["language"] == ALL and "difference" in e and e["loss"] is not None]
    if any(entry["share"] is not None for entry in entries):
        return _by_share(entries)
    if any("to_best" in entry for entry in summary["entries"]):
        return _by_language([e for e in summary["entries"] if e["language"] != ALL and e["loss"] is not None])
    treatments = [summary["rows"][entry["row"]].get("treatment") for entry in entries]
    if treatments and all(isinstance(one, Mapping) and {"alpha", "beta"} <= set(one) for one in treatments):
        return _by_strength(entries, summary["rows"])
    return _by_row(entries)


def headline_figure(summaries: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw the README's table: each method's gain over the best InfoNCE row, its mean and each language."""
    entries = headline_entries(summaries)
    transformer = headline_entries(summaries, TRANSFORMER, TRANSFORMER_PLACE)
    figure = Figure(figsize=(7.5, 0.9 + 0.42 * len(entries)), layout="constrained")
    axis = figure.subplots()
    for place, (row, (entry, languages)) in enumerate(entries.items()):
        each = [100 * one["to_best"][METRIC]["mean"] for one in languages]
        axis.plot(each, [place] * len(each), "|", color=INK, markersize=9, label="static embeddings: one language")
        _interval(axis, entry, place, 0, "static embeddings: mean, 95% interval", horizontal=True, which="to_best")
        if row in transformer:
            small, label = transformer[row][0], "a small transformer: mean, 95% interval"
            _interval(axis, small, place + 0.25, 1, label, horizontal=True, which="to_best")
    axis.axvline(0, color=INK, linewidth=0.8)
    axis.grid(axis="x")
    axis.set_yticks(range(len(entries)), [METHODS[row].replace("`", "") for row in entries])
    axis.set_ylim(len(entries) - 0.5, -0.5)
    axis.set_xlabel("Difference to the best InfoNCE row, points of MRR")
    _legend(figure)
    return figure


def gains_figure(summary: Mapping[str, Any]) -> Figure:
    """Draw gains over InfoNCE with the same batches: by the number of mined negatives, and by the teacher's strength.

    Args:
        summary: Of the plan `tables.GAINS`.

    Returns:
        The figure.
    """
    found = {(e["regime"], e["row"]): e for e in summary["entries"] if e["language"] == ALL}
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    by_count, by_teacher = figure.subplots(1, 2, sharey=True)
    for number, (name, rows) in enumerate(GAINS_ROWS.items()):
        spread = 0.12 * (number - (len(GAINS_ROWS) - 1) / 2)
        for count in (1, 4, 8):
            entry = found.get((f"mined-{count}", rows["minilm"]), {})
            if "difference" in entry:
                _interval(by_count, entry, count + spread, number, name)
        for teacher, row in rows.items():
            entry, strength = found.get((GAINS_REGIME, row), {}), found.get((GAINS_REGIME, teacher))
            if "difference" in entry and strength is not None:
                _interval(by_teacher, entry, 100 * strength["scores"][METRIC] + 4 * spread, number, name)
    for teacher, name in GAINS_TEACHERS.items():
        if (strength := found.get((GAINS_REGIME, teacher))) is not None:
            place = (100 * strength["scores"][METRIC], 0.02)
            by_teacher.annotate(name, place, xycoords=("data", "axes fraction"), ha="center", fontsize=7)
    for axis in (by_count, by_teacher):
        axis.axhline(0, color=INK, linewidth=0.8)
        axis.grid(axis="y")
    by_teacher.margins(x=0.25)
    by_count.set_xticks((1, 4, 8))
    by_count.set_xlabel("Negatives a query, mined by all-MiniLM")
    by_teacher.set_xlabel("The teacher's own MRR, points")
    by_count.set_ylabel("Difference to InfoNCE in the same batches,\npoints of MRR: mean, 95% interval")
    _legend(figure)
    return figure


def _by_row(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw one panel a model and regime; a row has its line in all of them, and all have one scale."""
    panels = list(dict.fromkeys((entry["model"], entry["regime"]) for entry in entries))
    rows = list(dict.fromkeys(entry["row"] for entry in entries))
    figure, axes = _panels(len(panels), width=2.1, height=0.5 + 0.25 * len(rows), margin=2.6)
    groups = {"softened or discounted": ("soften", "discount"), "masked": ("mask",), "other treatments": ()}
    groups |= {"oracle (not a method)": ("oracle",), "losses of others": (None,)}
    for axis, panel in zip(axes, panels, strict=False):
        for entry in entries:
            if (entry["model"], entry["regime"]) == panel:
                group = next((name for name, kinds in groups.items() if entry["kind"] in kinds), "other treatments")
                _interval(axis, entry, rows.index(entry["row"]), list(groups).index(group), group, horizontal=True)
        axis.set_title(", ".join(panel))
    against = {entry["row"]: entry["against"] for entry in entries}
    labels = [row if against[row] == "info-nce" else f"{row}\n(against {against[row]})" for row in rows]
    for axis in axes:
        axis.axvline(0, color=INK, linewidth=0.8)
        axis.grid(axis="x")
        axis.set_yticks(range(len(rows)), labels)
        axis.set_ylim(len(rows) - 0.5, -0.5)
    figure.supxlabel(f"Difference to InfoNCE, points of {NAMES[METRIC]}, 95% interval", fontsize=9)
    _legend(figure)
    return figure


def _by_language(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw one panel a model and regime against the best InfoNCE row, a series a language; all have one scale."""
    entries = [entry for entry in entries if "to_best" in entry]
    languages = list(dict.fromkeys(entry["language"] for entry in entries))
    panels = sorted({(e["model"], e["regime"]) for e in entries}, key=lambda p: (p[0], p[1] != "random", p[1]))

    def mean(row: str) -> float:
        values = [entry["to_best"][METRIC]["mean"] for entry in entries if entry["row"] == row]
        return -sum(values) / len(values)

    rows = sorted(dict.fromkeys(entry["row"] for entry in entries), key=mean)
    figure, axes = _panels(len(panels), width=2.6, height=0.6 + 0.3 * len(rows), margin=1.8)
    for axis, panel in zip(axes, panels, strict=True):
        for entry in entries:
            if (entry["model"], entry["regime"]) == panel:
                number = languages.index(entry["language"])
                place = rows.index(entry["row"]) + 0.6 * ((number + 0.5) / len(languages) - 0.5)
                _interval(axis, entry, place, number, entry["language"], horizontal=True, which="to_best")
        axis.set_title(", ".join(panel))
        axis.axvline(0, color=INK, linewidth=0.8)
        axis.grid(axis="x")
        axis.set_yticks(range(len(rows)), rows)
        axis.set_ylim(len(rows) - 0.5, -0.5)
    figure.supxlabel(f"Difference to the best InfoNCE row, points of {NAMES[METRIC]}, 95% interval", fontsize=9)
    _legend(figure)
    return figure


def _by_share(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw one panel a row against the share of duplicated functions; all have one scale."""
    rows = list(dict.fromkeys(entry["row"] for entry in entries))
    places = list(dict.fromkeys((entry["model"], entry["regime"]) for entry in entries))
    figure, axes = _panels(len(rows), width=2.4, height=1.6)
    for axis, row in zip(axes, rows, strict=False):
        for number, place in enumerate(places):
            points = [e for e in entries if e["row"] == row and (e["model"], e["regime"]) == place]
            for entry in points:
                across = 100 * entry["share"] + number - (len(places) - 1) / 2
                _interval(axis, entry, across, number, ", ".join(place))
        against = points[0]["against"] if points else "info-nce"
        axis.set_title(row if against == "info-nce" else f"{row}\n(against {against})", fontsize=8)
        axis.axhline(0, color=INK, linewidth=0.8)
        axis.grid(axis="y")
    figure.supxlabel("Duplicated functions in training, %", fontsize=9)
    figure.supylabel(f"Difference to InfoNCE, points of\n{NAMES[METRIC]}: mean, 95% interval", fontsize=9)
    _legend(figure)
    return figure


def _by_strength(entries: Sequence[Mapping[str, Any]], rows: Mapping[str, Any]) -> Figure:
    """Draw differences at each alpha and beta, a series an estimator, as the paper's Figure 3."""
    estimators = list(dict.fromkeys(rows[entry["row"]]["estimator"] for entry in entries))
    settings = [(rows[e["row"]]["treatment"]["alpha"], rows[e["row"]]["treatment"]["beta"]) for e in entries]
    strengths = sorted(set(settings), key=lambda pair: (round(sum(pair), 6) != 2, pair))
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    axis = figure.subplots()
    for entry, strength in zip(entries, settings, strict=True):
        number = estimators.index(rows[entry["row"]]["estimator"])
        across = strengths.index(strength) + 0.18 * (number - (len(estimators) - 1) / 2)
        _interval(axis, entry, across, number, estimators[number])
    axis.axhline(0, color=INK, linewidth=0.8)
    axis.set_xticks(range(len(strengths)), [f"alpha {alpha:g}\nbeta {beta:g}" for alpha, beta in strengths])
    axis.set_ylabel(f"Difference to InfoNCE, points of\n{NAMES[METRIC]}: mean, 95% interval")
    axis.grid(axis="y")
    _legend(figure)
    return figure


def _panels(count: int, *, width: float, height: float, margin: float = 0.0) -> tuple[Figure, list[Axes]]:
    """Lay panels out that share both scales; below each column the scale is written."""
    lines = -(-count // COLUMNS) or 1
    columns = -(-count // lines) or 1
    figure = Figure(figsize=(margin + width * columns, 0.9 + height * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axis in axes[count:]:
        axis.remove()
    for axis in axes[max(0, count - columns) : count]:
        axis.tick_params(labelbottom=True)
    return figure, axes[:count]


def _interval(
    axis: Axes,
    entry: Mapping[str, Any],
    place: float,
    style: int,
    label: str,
    *,
    horizontal: bool = False,
    which: str = "difference",
) -> None:
    mean, low, high = (100 * entry[which][METRIC][name] for name in ("mean", "low", "high"))
    error = [[max(0.0, mean - low)], [max(0.0, high - mean)]]
    point: dict[str, Any] = (
        {"x": mean, "y": place, "xerr": error} if horizontal else {"x": place, "y": mean, "yerr": error}
    )
    axis.errorbar(**point, fmt=MARKERS[style], color=COLOURS[style], markersize=4, capsize=2, label=label)


def _legend(figure: Figure) -> None:
    handles: dict[str, Any] = {}
    for axis in figure.axes:
        found, labels = axis.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    if len(handles) > 1:
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=5, fontsize=8)


def weights_figure(content: Mapping[str, Any]) -> Figure:
    """Draw how the weights of each row are spread, and how many are far below 1, after the paper's Figure 2.

    Args:
        content: Of ``results/weights.json``.

    Returns:
        The figure.
    """
    rows = list(content["rows"])
    figure = Figure(figsize=(9, 1.3 + 0.25 * len(rows)), layout="constrained")
    spread, shares = figure.subplots(1, 2, sharey=True)
    for place, row in enumerate(content["rows"].values()):
        lowest, _, low, middle, high, highest = row["quantiles"]
        spread.plot([lowest, highest], [place, place], color=COLOURS[0], linewidth=1.2)
        spread.plot([low, high], [place, place], color=COLOURS[0], linewidth=5, solid_capstyle="butt")
        spread.plot(middle, place, "o", color=COLOURS[1], markersize=4)
        for number, key in enumerate(("below_0_9", "below_0_5")):
            shares.plot(100 * row[key], place, MARKERS[number], color=COLOURS[number], markersize=5)
    spread.axvline(1, color=INK, linewidth=0.8)
    spread.set_xlim(0, 1.1)
    spread.set_xlabel("Weight: median (dot), 10 to 90% (thick),\n0.1 to 99% (thin)")
    shares.set_xscale("log")
    shares.set_xlabel("Negatives with a weight\nbelow 0.9 (circles) and below 0.5 (squares), %")
    spread.set_yticks(range(len(rows)), rows)
    spread.set_ylim(len(rows) - 0.5, -0.5)
    for axis in (spread, shares):
        axis.grid()
    figure.suptitle(
        f"Weights of the negatives ({content['language']}, batches of {content['batch_size']})", fontsize=9
    )
    return figure


def weighting_figure() -> Figure:
    """Draw how the weights act: a negative's weight against its similarity, by the formulas."""
    from evaluation.studies.weights import BATCH_SIZES, PANELS, paper_curve, posterior_curve, spaced

    figure = Figure(figsize=(10, 2.9), layout="constrained")
    axes = figure.subplots(1, len(PANELS) + 1, sharey=True)
    for axis, (name, unit, most, options) in zip(axes, PANELS, strict=False):
        similarities = spaced(most)
        for colour, size in zip(COLOURS, BATCH_SIZES, strict=False):
            weights = paper_curve(similarities, size, **options).tolist()
            axis.plot(similarities.tolist(), weights, color=colour, label=f"batch of {size}")
        axis.set_title(f"{name}\n" + ", ".join(f"{key} {value}" for key, value in options.items()), fontsize=8)
        axis.set_xlabel(unit)
    for colour, prior in zip(COLOURS[3:], (0.01, 0.001), strict=False):
        similarities = spaced(1.0)
        weights = posterior_curve(similarities, prior).tolist()
        axes[-1].plot(similarities.tolist(), weights, color=colour, label=f"prior {prior}")
    axes[-1].set_title("posterior\nany batch, an illustration", fontsize=8)
    axes[-1].set_xlabel("cosine")
    axes[0].set_ylabel("weight of the negative")
    axes[0].set_ylim(0, 1.15)
    for axis in axes:
        axis.grid()
        axis.legend(fontsize=7)
    return figure
