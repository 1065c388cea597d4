"""The one door: ``python -m evaluation COMMAND``. Each command is ``add_arguments`` and ``run`` of one module."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from evaluation import UsageError

COMMANDS = {
    "corpora": ("evaluation.corpus.build", "fetch packages of pinned versions and mine them into corpora"),
    "run": ("evaluation.runs.runner", "train and score what a plan lists; goes on where it stopped"),
    "report": ("evaluation.report", "sum finished runs up, and write RESULTS.md and the figures"),
    "figures": ("evaluation.report.figures", "draw the figures again from results/*.json"),
    "push": ("evaluation.studies.gradient_push", "measure where training pushes, and what the weights change"),
    "theory": ("evaluation.studies.theory", "check the paper's statements"),
    "cost": ("evaluation.costs", "measure time, memory, tables and mining"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, of the process's arguments by default.

    Returns:
        The exit status: 0, 1 if a run failed, or 2 if the arguments, a file or the corpus are not usable.
    """
    command, *rest = (sys.argv[1:] if arguments is None else list(arguments)) or ["--help"]
    if command not in COMMANDS:
        described = "\n".join(f"  {name:10}{text}" for name, (_, text) in COMMANDS.items())
        print(f"usage: python -m evaluation COMMAND ...\n\n{described}\n\nCOMMAND --help says more.")
        return 0 if command in ("-h", "--help") else 2
    if command != "corpora":  # a line a run, instead of a hundred bars ("Loading weights"); read when tqdm is imported
        os.environ.setdefault("TQDM_DISABLE", "1")
    module = importlib.import_module(COMMANDS[command][0])  # alone: some need torch, others answer at once
    parser = argparse.ArgumentParser(
        f"python -m evaluation {command}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    given = parser.parse_args(rest)
    try:
        status: int = module.run(given)
    except (UsageError, FileNotFoundError) as error:
        print(f"{parser.prog}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
