"""Train and score what a plan lists: what has a result is left alone, what fails is reported, and the rest is timed.

    python -m evaluation run cpu            # evaluation/configs/cpu.toml; goes on where it stopped
    python -m evaluation run cpu --list     # what there is to do

A run is known by a hash of its settings and of its data: what has a result is not run again, whatever else changes.
Results are lines of OUTPUT/results.jsonl, with the numbers of every query in OUTPUT/values; `report` sums them up.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from evaluation.environment import OUTPUT, about, find_config
from evaluation.runs.losses import NotApplicable
from evaluation.runs.plan import Config, Plan, Run
from evaluation.runs.store import Store, write_values
from evaluation.runs.train import Bench, train_and_score

Result = dict[str, Any]
_bench: Bench | None = None  # of a worker process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("config", metavar="PLAN", help="a TOML file, or the name of one in evaluation/configs")
    parser.add_argument("--corpus", help="folder or name of the corpus (default: as the file says)")
    parser.add_argument("--output", type=Path, help="folder of the results (default: output/evaluation/PLAN)")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="ROW", help="run these rows alone, and what chooses their settings"
    )
    parser.add_argument("--languages", nargs="+", metavar="NAME", help="of those that the file names")
    parser.add_argument("--regimes", nargs="+", metavar="NAME", help="of those that the file names")
    parser.add_argument("--list", action="store_true", help="say what would be run")
    parser.add_argument("--processes", type=int, help="runs at a time (default: as the file says)")
    parser.add_argument("--threads", type=int, help="threads of each run (default: as the file says)")


def run(given: argparse.Namespace) -> int:
    """Read the plan, and run or list what has no result yet; 1 if a run failed."""
    config = Config.read(find_config(given.config))
    config.keep(languages=given.languages, regimes=given.regimes, rows=given.only)
    config.machine |= {name: getattr(given, name) for name in ("processes", "threads") if getattr(given, name)}
    output = given.output or OUTPUT / config.name
    bench = Bench(config, output, given.corpus)
    plan = bench.plan()
    if given.list:
        results = Store(output).read()
        print(*_left(plan, results), _progress(plan, results), sep="\n")
        return 0
    failures = 0
    with Store(output) as store, _workers(bench, output, given.corpus) as make:
        results = store.read()
        # Tuning first: its results say which runs on the test packages there are.
        later = (plan.choice_runs, plan.rate_runs, plan.test_runs)
        stages = [plan.tuning_runs, *(partial(stage, results=results) for stage in later)]
        # One model and regime after the other: their results can be looked at while the rest runs.
        for place in dict.fromkeys((cell.model, cell.regime) for cell in plan.cells()):
            cells = [cell for cell in plan.cells() if (cell.model, cell.regime) == place]
            for stage in stages:
                runs = {run.key: run for cell in cells for run in stage(cell) if run.key not in results}
                for made, result in make(list(runs.values())):
                    if "error" in result:
                        failures += 1
                        store.add_failure(result)
                    else:
                        store.add(result)
                        results[made.key] = result
                    print(f"{time.strftime('%H:%M:%S')} {made}: {_outcome(result)}; {_progress(plan, results)}")
    if failures:
        print(f"{failures} runs failed: see {output / 'failures.jsonl'}. They are tried again next time.")
    return 1 if failures else 0


def _left(plan: Plan, results: Mapping[str, Result]) -> list[Run]:
    """List the runs without a result, as far as tuning says which they are."""
    return [run for run in plan.all_runs(results) if run.key not in results]


def _outcome(result: Result) -> str:
    if "scores" not in result:
        return f"FAILED, {result['error']}" if "error" in result else f"left out: {result['not_applicable']}"
    scores = ", ".join(f"{value:.4f}" for value in result["scores"].values())
    return f"{scores} in {sum(result['seconds'].values()):.0f} s"


def _progress(plan: Plan, results: Mapping[str, Result]) -> str:
    """Say how many runs are left, and how long they take by the median of those alike, or of all."""
    seconds: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for result in results.values():
        if "seconds" in result:
            seconds[_alike(result["settings"])].append(sum(result["seconds"].values()))
    left = Counter(_alike(run.settings) for run in _left(plan, results))
    text = f"{len(results)} runs done, {left.total()} left"
    if not seconds:
        return text
    known = {group: median(values) for group, values in seconds.items()}  # the run that makes a teacher takes longer
    usual = mean(known.values())
    rest = sum(count * known.get(group, usual) for group, count in left.items())
    return f"{text}, about {rest / plan.config.machine['processes'] / 60:.0f} min"


def _alike(settings: Mapping[str, Any]) -> tuple[str, ...]:
    return settings["stage"], settings["model"]["name"], settings["regime"]["name"]


@contextmanager
def _workers(
    bench: Bench, output: Path, corpus: str | None
) -> Iterator[Callable[[Sequence[Run]], Iterator[tuple[Run, Result]]]]:
    """Offer a function that makes runs and yields each with its result: here, or in processes of some threads each."""
    processes, threads = bench.config.machine["processes"], bench.config.machine["threads"]
    torch.set_num_threads(threads)
    made_with = about()
    if processes == 1:
        yield lambda runs: ((run, _make(output, made_with, run, bench)) for run in runs)
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    arguments = (bench.config, output, corpus, threads, os.getpid())
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start_worker, arguments) as pool:

        def make(runs: Sequence[Run]) -> Iterator[tuple[Run, Result]]:
            submitted = {pool.submit(_make, output, made_with, run): run for run in runs}
            for future in as_completed(submitted):
                yield submitted[future], future.result()

        try:
            yield make
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a worker died, probably killed for its memory: start the command again, it goes on where it stopped; "
                "fewer --processes need less."
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(config: Config, output: Path, corpus: str | None, threads: int, parent: int) -> None:
    global _bench
    torch.set_num_threads(threads)
    _bench = Bench(config, output, corpus)

    def leave_with_parent() -> None:  # a killed parent leaves its pool waiting for ever
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def _make(output: Path, made_with: Mapping[str, Any], run: Run, bench: Bench | None = None) -> Result:
    bench = bench or _bench
    assert bench is not None
    result: Result = {"key": run.key, "settings": run.settings, "data": run.data, **made_with}
    try:
        scores, seconds = train_and_score(run.settings, bench)
    except NotApplicable as reason:
        return result | {"not_applicable": str(reason)}
    except Exception as error:
        return result | {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    write_values(output, run.key, scores.queries, scores.values)
    return result | {"scores": scores.means, "queries": len(scores.queries), "seconds": seconds}
