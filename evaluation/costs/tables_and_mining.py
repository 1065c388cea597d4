"""What representation tables and mining cost, as ratios to their natural limits, each measured in one run.

    python -m evaluation cost tables                       # to 10 million keys: some minutes, 6 GB of memory
    python -m evaluation cost tables --keys 10000 100000   # quick

Looking a batch up in a table is compared with reading as many rows of one tensor; building a table with
`model.encode` of the same texts; its size on disk with the vectors alone; mining with walking through the same folder,
reading and parsing its files, with two processes, and the memory it takes to write a folder's pairs with that for one
of twice the size. The ratios of mining are of the processor's time, its processes included, which other work on the
machine leaves as it is. `--mined go=DIR ruby=DIR` measures folders of other languages too.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tree_sitter import Language, Parser

from evaluation.costs.step_time import package_folder
from evaluation.costs.timing import against, processor_seconds
from evaluation.runs.base_models import load_model
from st_softinfonce import get_estimator
from st_softinfonce.data import MiningReport, mine_pairs
from st_softinfonce.data.languages import EXTENSIONS
from st_softinfonce.vectors import RepresentationTable

DIMENSIONS = 128
BATCH = 512
MINED = "networkx"
COPIES = 10
ROUNDS = 5
BUILT = "scipy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--keys", type=int, nargs="+", default=[10**4, 10**5, 10**6, 10**7], help="table sizes")
    parser.add_argument("--texts", type=int, default=2000, help="to build a table of (default: %(default)s)")
    parser.add_argument(
        "--mined", nargs="*", default=[], metavar="LANGUAGE=DIR", help="folders to mine beside networkx"
    )
    parser.add_argument("--rounds", type=int, default=200, help="look-ups timed (default: %(default)s)")


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Measure mining, building, and looking up in tables of every size."""
    torch.set_num_threads(1)
    look_ups = [look_up(keys, given.rounds) for keys in given.keys]
    others = [mine_against_parsing(*mined.split("=", 1)) for mined in given.mined]
    return {"mining": mine() | {"others": others}, "build": build(given.texts), "look_up": look_ups}


def look_up(keys: int, rounds: int) -> dict[str, Any]:
    """Look a batch up in a table of so many synthetic keys, against reading those rows by their number."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.arange(keys) * -7046029254386353131  # spread over all of int64 as hashes are
    vectors = torch.empty(keys, DIMENSIONS, dtype=torch.float16)
    for part in torch.split(vectors, 1_000_000):
        part.copy_(torch.rand(part.shape, generator=generator))
    table = RepresentationTable()
    table.add(numbers, vectors)
    chosen = torch.randint(keys, (rounds, BATCH), generator=generator)
    batches = numbers[chosen]
    timed = against(lambda number: table.look_up(batches[number]), lambda number: vectors[chosen[number]], rounds)
    return {"keys": keys, "batch": BATCH, "dimensions": DIMENSIONS, **timed}


def build(texts: int) -> dict[str, Any]:
    """Fill a table on disk from texts, against encoding them; and weigh its files against the vectors."""
    pairs = mine_pairs(package_folder(BUILT)).select(range(texts))
    model = load_model({"base": "minilm", "layers": 1, "max_tokens": 64}, "cpu")
    queries = list(pairs["query"])
    data = Dataset.from_dict({"query": queries, "code": queries})
    distinct = list(dict.fromkeys(queries))
    sizes: list[int] = []

    def ours(number: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            estimator = get_estimator("simcse", model=model, table=Path(folder) / "table")
            estimator.precompute(data, model, show_progress=False)
            sizes.append(sum(path.stat().st_size for path in (Path(folder) / "table").iterdir()))

    timed = against(ours, lambda number: model.encode(distinct, batch_size=64, show_progress_bar=False), 5)
    return {
        "texts": len(distinct),
        "bytes": sizes[-1],
        "bytes_to_vectors": sizes[-1] / (2 * model.get_embedding_dimension() * len(distinct)),
        **timed,
    }


def mine_against_parsing(language: str, folder: str) -> dict[str, Any]:
    """Mine a folder, against walking through it, reading its files but for the tests, and parsing them."""
    module = import_module(f"tree_sitter_{language}")
    grammar = getattr(module, f"language_{language}", None) or module.language
    parser = Parser(Language(grammar()))
    report = MiningReport()

    def parse(number: int) -> None:
        for base, _, names in os.walk(folder):
            if "tests" not in Path(base).parts:
                for name in names:
                    if EXTENSIONS.get(Path(name).suffix) == language:
                        parser.parse(Path(base, name).read_bytes())

    def run(number: int) -> None:
        mine_pairs(folder, languages=[language], report=report)

    timed = against(run, parse, ROUNDS, processor_seconds)
    return {
        "language": language,
        "files_mined": report.files_mined,
        "functions_seen": report.functions_seen,
        "functions_per_second": report.functions_seen / timed["ms"] * 1000,
        **timed,
    }


def mine() -> dict[str, Any]:
    """Mine a package, against walking through it, reading and parsing; and weigh what writing many of it takes."""
    folder = package_folder(MINED)
    mined = mine_against_parsing("python", str(folder))
    with tempfile.TemporaryDirectory() as name:
        copies = Path(name)
        for number in range(COPIES):
            shutil.copytree(folder, copies / "one" / f"copy{number}", ignore=shutil.ignore_patterns("tests"))
        shutil.copytree(copies / "one", copies / "two" / "first")
        shutil.copytree(copies / "one", copies / "two" / "second")
        processes = against(
            lambda number: mine_pairs(copies / "two", keep_duplicates=True),
            lambda number: mine_pairs(copies / "two", keep_duplicates=True, num_proc=2),
            2,
        )
        peaks = [peak_memory(copies / size, copies / f"{size}-out") for size in ("one", "two")]
    return {
        "package": f"{MINED} {version(MINED)}",
        "one_process_to_two": processes["ratio"],
        "peak_mib": peaks,
        **mined,
    }


def peak_memory(folder: Path, output: Path) -> float:
    """The most memory in MiB that a process has which mines a folder to Parquet, all that it imports included."""
    program = (
        "import resource, sys; from st_softinfonce.data import mine_to_parquet; "
        "mine_to_parquet(sys.argv[1], sys.argv[2], keep_duplicates=True); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(folder), str(output)], check=True, stdout=subprocess.PIPE, text=True
    )
    return float(ran.stdout)
