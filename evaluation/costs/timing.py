"""Times of things that take turns, so that what else the machine does meets all of them alike."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def take_turns(
    functions: Mapping[str, Callable[[int], object]],
    rounds: int,
    *,
    warm_up: int = 1,
    device: str = "cpu",
    clock: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Time functions of the number of the round, in random order within a round, after rounds that do not count.

    On ``"cuda"`` the device's own clock is read, else ``clock`` or the wall's. Seconds by name, one a round.
    """
    for number in range(warm_up):
        for function in functions.values():
            function(number)
    times: dict[str, list[float]] = {name: [] for name in functions}
    order, generator = list(functions), random.Random(0)
    for number in range(rounds):
        generator.shuffle(order)
        for name in order:
            times[name].append(_seconds(functions[name], number, device, clock or time.perf_counter))
    return times


def ratios(times: Mapping[str, list[float]], limit: str) -> dict[str, dict[str, Any]]:
    """Compare times with those of ``limit``: the median ``ms``, and the median and quartiles of a round's ratios."""
    found = {}
    for name, values in times.items():
        pairs = [value / other for value, other in zip(values, times[limit], strict=True)]
        low, ratio, high = statistics.quantiles(pairs, n=4, method="inclusive")
        found[name] = {"ms": 1000 * statistics.median(values), "ratio": ratio, "quartiles": [low, high]}
    return found


def against(
    ours: Callable[[int], object],
    limit: Callable[[int], object],
    rounds: int,
    clock: Callable[[], float] | None = None,
) -> dict[str, Any]:
    """Time one thing against its natural limit: :func:`ratios`, and the limit's own median ``limit_ms``."""
    found = ratios(take_turns({"ours": ours, "limit": limit}, rounds, clock=clock), "limit")
    return found["ours"] | {"limit_ms": found["limit"]["ms"]}


def processor_seconds() -> float:
    """Read the processor's time of this process and of those that it has begun and ended."""
    return sum(os.times()[:4])


def _seconds(function: Callable[[int], object], number: int, device: str, clock: Callable[[], float]) -> float:
    if not device.startswith("cuda"):
        start = clock()
        function(number)
        return clock() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    function(number)
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000
