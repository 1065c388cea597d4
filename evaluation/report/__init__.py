"""Sum finished runs up and write all tables: evaluation/RESULTS.md, the figures, and the table in the README.

    python -m evaluation report                     # again, from results/*.json
    python -m evaluation report cpu why             # of output/evaluation/{cpu,why}, and all others from their JSON

Writes results/PLAN.json for each plan named. Nothing in RESULTS.md is typed by hand, nor what stands between the
markers of the README: <!-- results:begin --> to <!-- results:end -->, and those of "advice".
"""

from __future__ import annotations

import argparse
from pathlib import Path

from evaluation.environment import HERE, OUTPUT, RESULTS, find_config, write_json
from evaluation.report.tables import advice_lines, readme_lines, replace_between_markers, results_page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("plans", nargs="*", metavar="PLAN", help="TOML files, or names of those in evaluation/configs")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where the runs are (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: evaluation/results")
    parser.add_argument("--page", type=Path, default=HERE / "RESULTS.md", help="default: evaluation/RESULTS.md")
    parser.add_argument("--readme", type=Path, default=HERE.parent / "README.md", help="default: README.md")


def run(given: argparse.Namespace) -> int:
    """Write the summaries, the figures and the tables."""
    from evaluation.report.figures import draw  # matplotlib, which --help does without

    if given.plans:
        from evaluation.report.summary import current_results, summarise
        from evaluation.runs.plan import Config
        from evaluation.runs.store import Store
    for plan in given.plans:
        config = Config.read(find_config(plan))
        store = Store(given.output / config.name)
        write_json(
            given.results / f"{config.name}.json", summarise(config.name, store, current_results(config, store))
        )
    draw(given.results)
    given.page.write_text(results_page(given.results))
    lines = readme_lines(given.results)
    replace_between_markers(given.readme, "results", lines)
    replace_between_markers(given.readme, "advice", advice_lines(given.results))
    print(*lines, sep="\n")
    return 0
