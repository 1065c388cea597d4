"""Measure what the losses cost: the time and the memory of a step, tables of vectors, and mining.

    python -m evaluation cost step --layers 3 --max-tokens 64 --batch-size 32 64     # minutes on two cores
    python -m evaluation cost step --device cuda --batch-size 128 --profile          # and counts waits for the GPU
    python -m evaluation cost memory --batch-size 32 512 2048 8192 --cached-from 1024
    python -m evaluation cost tables                # to 10 million keys: some minutes, 6 GB of memory

Every number is a ratio to a natural limit that is measured in the same run, in turn with it.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from evaluation.environment import RESULTS, about, write_result

KINDS = {
    "step": ("evaluation.costs.step_time", "step_time.json"),
    "memory": ("evaluation.costs.memory", "memory.json"),
    "tables": ("evaluation.costs.tables_and_mining", "costs.json"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind, (name, file) in KINDS.items():
        module = importlib.import_module(name)
        options = kinds.add_parser(
            kind, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(options)
        options.add_argument("--output", type=Path, default=RESULTS / file, help=f"default: evaluation/results/{file}")


def run(given: argparse.Namespace) -> int:
    """Measure, write and show the results."""
    module, file = KINDS[given.kind]
    measured = importlib.import_module(module).measure(given)
    command = " ".join(["python -m evaluation", *sys.argv[1:]])
    write_result(given.output, {"command": command, **about(), **measured}, file)
    return 0
