"""Plots of the evaluation, as SVG that is the same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MEAN = "mean"
BASELINE = "info-nce"
# Okabe and Ito's colours, told apart by readers with any colour vision; the baseline is black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#8C564B")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")

mpl.rcParams.update({"svg.hashsalt": "st-softinfonce", "svg.fonttype": "none", "font.size": 9})


def save(figure: Figure, path: Path) -> None:
    """Write a figure.

    Args:
        figure: The figure.
        path: Where to.
    """
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None} if path.suffix == ".svg" else None)


def plot_differences(summary: Mapping[str, Any], path: Path, metric: str, names: Mapping[str, str]) -> None:
    """Plot each row's mean difference to InfoNCE over languages, one panel a model and regime.

    Args:
        summary: Of ``report.summarise``.
        path: Where to.
        metric: Which.
        names: Of metrics, for the reader.
    """
    entries = [entry for entry in summary["entries"] if entry["language"] == MEAN and "difference" in entry]
    entries = [entry for entry in entries if entry["loss"] is not None]  # zero-shot is off any scale
    panels = list(dict.fromkeys((entry["model"], entry["regime"]) for entry in entries))
    rows = list(dict.fromkeys(entry["row"] for entry in entries))
    if not panels:
        return
    figure = Figure(figsize=(3 + 2.2 * len(panels), 1.2 + 0.24 * len(rows)))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (model, regime) in zip(axes, panels, strict=True):
        for entry in entries:
            if (entry["model"], entry["regime"]) == (model, regime):
                difference = {name: 100 * value for name, value in entry["difference"][metric].items()}
                soft = entry["loss"] == "SoftInfoNCELoss"
                axis.errorbar(
                    difference["mean"],
                    rows.index(entry["row"]),
                    xerr=[
                        [max(0.0, difference["mean"] - difference["low"])],
                        [max(0.0, difference["high"] - difference["mean"])],
                    ],
                    fmt="o" if soft else "s",
                    color=COLOURS[0] if soft else COLOURS[1],
                    markersize=4,
                    capsize=2,
                )
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_title(f"{model}, {regime}", fontsize=9)
        axis.grid(axis="x", alpha=0.3)
    against = {entry["row"]: entry["against"] for entry in entries}
    labels = [row if against[row] == BASELINE else f"{row}\n(against {against[row]})" for row in rows]
    axes[0].set_yticks(range(len(rows)), labels)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.supxlabel(
        f"Difference to InfoNCE in points of {names[metric]}, mean over languages, 95% interval\n"
        "(blue circles: Soft-InfoNCE; orange squares: other losses)",
        fontsize=9,
    )
    figure.tight_layout()
    save(figure, path)


def plot_shares(summary: Mapping[str, Any], path: Path, metric: str, names: Mapping[str, str]) -> None:
    """Plot scores, and differences to InfoNCE, against the share of duplicated functions in training.

    Args:
        summary: Of ``report.summarise``.
        path: Where to.
        metric: Which MRR; graded nDCG is plotted beside it.
        names: Of metrics, for the reader.
    """
    entries = [entry for entry in summary["entries"] if entry["language"] == MEAN and entry["share"] is not None]
    regimes = list(dict.fromkeys((entry["model"], entry["regime"]) for entry in entries))
    rows = list(dict.fromkeys(entry["row"] for entry in entries))
    figure = Figure(figsize=(11, 3.6 * len(regimes)))
    axes = figure.subplots(len(regimes), 3, squeeze=False)
    for line, (model, regime) in zip(axes, regimes, strict=True):
        here = [entry for entry in entries if (entry["model"], entry["regime"]) == (model, regime)]
        for axis, name in zip(line, (metric, "ndcg_at_10", None), strict=True):
            for number, row in enumerate(rows):
                points = sorted((entry for entry in here if entry["row"] == row), key=lambda entry: entry["share"])
                if name is None and points and points[0]["against"] != BASELINE:
                    continue
                _curve(axis, points, name or metric, number, row, against_baseline=name is None)
            axis.set_xlabel("Duplicated functions in training, %")
            axis.set_ylabel(f"{names[name]}, points" if name else f"{names[metric]} - InfoNCE, points")
            axis.set_title(f"{model}, {regime}", fontsize=9)
            axis.grid(alpha=0.3)
        line[2].axhline(0, color="black", linewidth=0.8)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=4, bbox_to_anchor=(0.5, 0.0), fontsize=8)
    figure.tight_layout()
    save(figure, path)


def _curve(
    axis: Axes, points: Sequence[Mapping[str, Any]], metric: str, number: int, row: str, *, against_baseline: bool
) -> None:
    colour = "black" if row == BASELINE else COLOURS[number % len(COLOURS)]
    style = {"color": colour, "marker": MARKERS[number % len(MARKERS)], "markersize": 4, "linewidth": 1.2}
    style["linestyle"] = "-" if number < len(COLOURS) else "--"
    if against_baseline:
        points = [point for point in points if "difference" in point]
        middle = [100 * point["difference"][metric]["mean"] for point in points]
        low = [100 * point["difference"][metric]["low"] for point in points]
        high = [100 * point["difference"][metric]["high"] for point in points]
    else:
        middle = [100 * point["scores"][metric] for point in points]
        spread = [100 * point["spread_over_seeds"][metric] for point in points]
        low = [value - width for value, width in zip(middle, spread, strict=True)]
        high = [value + width for value, width in zip(middle, spread, strict=True)]
    shares = [100 * point["share"] for point in points]
    if against_baseline:  # a little apart: bands of this width would lie on one another
        shares = [share + 0.4 * (number - 5) for share in shares]
        below = [max(0.0, value - end) for value, end in zip(middle, low, strict=True)]
        above = [max(0.0, end - value) for value, end in zip(middle, high, strict=True)]
        axis.errorbar(shares, middle, yerr=[below, above], capsize=1.5, elinewidth=0.7, **style)
        return
    axis.plot(shares, middle, label=row, **style)
    axis.fill_between(shares, low, high, color=colour, alpha=0.1, linewidth=0)
