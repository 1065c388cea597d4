"""Draw the figures from results/*.json, and the weights' curves from the formulas.

python -m evaluation figures                    # evaluation/results/*.svg
python -m evaluation figures --weights cpu      # measure the weights of that plan's rows first
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from evaluation.environment import OUTPUT, RESULTS
from evaluation.report import plots
from evaluation.report.tables import GAINS, HEADLINE, read_summaries


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: evaluation/results")
    parser.add_argument("--format", default="svg", choices=["svg", "png"], help="default: %(default)s")
    parser.add_argument("--weights", metavar="PLAN", help="measure its rows' weights, on its first language")
    parser.add_argument("--batch-size", type=int, default=64, help="for --weights (default: %(default)s)")
    parser.add_argument("--corpus", help="for --weights (default: as the file says)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="for --weights (default: %(default)s)")


def run(given: argparse.Namespace) -> int:
    """Measure the weights if asked for, and draw every figure."""
    if given.weights is not None:
        from evaluation.studies.weights import measure

        measure(given.weights, given.output, given.results, corpus=given.corpus, batch_size=given.batch_size)
    for path in draw(given.results, given.format):
        print(path)
    return 0


def draw(results: Path, suffix: str = "svg") -> list[Path]:
    """Draw what there are results for.

    Args:
        results: Folder of the JSON files, and of the figures.
        suffix: ``"svg"`` or ``"png"``.

    Returns:
        The figures' paths.
    """
    summaries = read_summaries(results)
    drawn = {name: plots.plan_figure(summary) for name, summary in summaries.items()}
    if set(HEADLINE) & set(summaries):
        drawn["headline"] = plots.headline_figure(summaries)
    if GAINS in summaries:
        drawn["gains"] = plots.gains_figure(summaries[GAINS])
    if (results / "weights.json").exists():
        drawn["weights"] = plots.weights_figure(json.loads((results / "weights.json").read_text()))
    drawn["weighting"] = plots.weighting_figure()
    results.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in drawn.items():
        paths.append(results / f"{name}.{suffix}")
        plots.save(figure, paths[-1])
    return paths
