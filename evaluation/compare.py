"""Compare losses: a matrix of loss x estimator x base model x language x regime x seed, declared in a TOML file.

    python evaluation/compare.py evaluation/cpu.toml           # go on where it stopped
    python evaluation/compare.py evaluation/cpu.toml --list    # what there is to do

A run is known by a hash of its settings and of its data: what has a result is not run again, whatever else changes.
Results are lines of OUTPUT/results.jsonl, with the numbers of every query in OUTPUT/values; evaluation/report.py makes
tables and plots of them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from evaluation.matrix import Matrix
from evaluation.schedule import Progress, pending, run_matrix
from evaluation.store import Store


def main(arguments: list[str] | None = None, *, description: str = __doc__ or "") -> int:
    """Run, or list, what a TOML file declares.

    Args:
        arguments: Of the command line.
        description: For ``--help``.

    Returns:
        The exit status: 1 if a run failed, 2 if the file, an option or the corpus is not usable.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, metavar="CONFIG.toml")
    parser.add_argument("--corpus", help="folder or name of the corpus (default: as the file says)")
    parser.add_argument("--output", type=Path, help="folder of the results (default: output/evaluation/CONFIG)")
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="run these rows alone")
    parser.add_argument("--languages", nargs="+", metavar="NAME", help="of those that the file names")
    parser.add_argument("--list", action="store_true", help="say what would be run")
    parser.add_argument("--processes", type=int, help="runs at a time (default: as the file says)")
    parser.add_argument("--threads", type=int, help="threads of each run (default: as the file says)")
    given = parser.parse_args(arguments)
    try:
        return _run(given)
    except (FileNotFoundError, ValueError) as error:  # of the file, an option or the corpus: a run's own are recorded
        print(f"{parser.prog}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _run(given: argparse.Namespace) -> int:
    matrix = Matrix.from_file(given.config)
    output = given.output or Path("output/evaluation") / given.config.stem
    corpus = given.corpus or matrix.corpus["folder"]
    for name in ("processes", "threads"):
        if getattr(given, name) is not None:
            matrix.machine[name] = getattr(given, name)
    if given.languages is not None:
        matrix.keep_languages(given.languages)
    if given.list:
        done, todo = pending(matrix, output, corpus=corpus, only=given.only)
        for run in todo:
            print(run)
        progress = Progress(Store(output).read(), matrix.machine["processes"], print)
        progress.plan(todo, [])
        print(f"{len(done)} runs done, {len(todo)} left, {progress.estimate()}")
        return 0
    failures = run_matrix(matrix, output, corpus=corpus, only=given.only)
    if failures:
        print(f"{failures} runs failed: see {output / 'failures.jsonl'}. They are tried again next time.")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
