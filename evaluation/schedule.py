"""Go through a matrix: what has a result is left alone, what fails is reported, and the rest is timed."""

from __future__ import annotations

import multiprocessing
import os
import platform
import subprocess
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from evaluation.matrix import Cell, Matrix, Run
from evaluation.store import Store, write_values
from evaluation.training import NotApplicable, Workshop, versions

_workshop: Workshop | None = None


def run_matrix(
    matrix: Matrix, output: Path, *, corpus: str, only: Sequence[str] = (), say: Callable[[str], None] = print
) -> int:
    """Run what has no result yet.

    Args:
        matrix: The runs.
        output: Folder of results, teachers and mined negatives.
        corpus: Folder or name of the corpus.
        only: Rows to run; none runs all.
        say: Takes lines for the reader.

    Returns:
        How many runs failed.
    """
    store = Store(output).open()
    try:
        workshop = Workshop(**workshop_options(matrix, output, corpus))
        matrix.fingerprints = _cached(workshop.fingerprint)
        results = store.read()
        progress = Progress(results, matrix.machine["processes"], say)
        failures = 0
        with _workers(matrix, output, corpus, workshop) as submit:
            for block in _blocks(list(matrix.cells(only))):
                # Tuning first: what is chosen by it says which runs on the test packages there are.
                for stage in (_tuning_runs, _test_runs):
                    runs = _unique(run for cell in block for run in stage(matrix, cell, results))
                    todo = [run for run in runs if run.key not in results]
                    progress.plan(todo, others=_remaining(matrix, only, results, todo))
                    failures += _work_off(todo, submit, matrix.machine["processes"], store, results, progress)
        return failures
    finally:
        store.close()


def workshop_options(matrix: Matrix, output: Path, corpus: str) -> dict[str, Any]:
    """Say how to make what trains and scores the runs of a matrix.

    Args:
        matrix: The matrix.
        output: Teachers and mined negatives go to its folder ``cache``.
        corpus: Folder or name of the corpus.

    Returns:
        Arguments of :class:`~evaluation.training.Workshop`.
    """
    return {
        "corpus": corpus,
        "cache": output / "cache",
        "corpus_settings": matrix.corpus,
        "device": matrix.machine.get("device"),
        "evaluation_batch_size": matrix.machine.get("evaluation_batch_size", 128),
    }


def pending(matrix: Matrix, output: Path, *, corpus: str, only: Sequence[str] = ()) -> tuple[list[Run], list[Run]]:
    """List the runs with and without a result, as far as tuning has chosen their settings.

    Args:
        matrix: The runs.
        output: Folder of results.
        corpus: Folder or name of the corpus.
        only: Rows; none lists all.

    Returns:
        Runs that are done, and that are not.
    """
    matrix.fingerprints = _cached(Workshop(**workshop_options(matrix, output, corpus)).fingerprint)
    results = Store(output).read()
    runs = expected_runs(matrix, only, results)
    return [run for run in runs if run.key in results], [run for run in runs if run.key not in results]


class Progress:
    """Says what is done, and about how long the rest takes.

    Args:
        results: Earlier ones, to learn how long runs take.
        processes: Runs at a time.
        say: Takes lines.
    """

    def __init__(self, results: Mapping[str, Mapping[str, Any]], processes: int, say: Callable[[str], None]) -> None:
        self.processes = processes
        self.say = say
        self.seconds: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        self.left: dict[tuple[str, str, str], int] = {}
        for result in results.values():
            self.learn(result)

    def learn(self, result: Mapping[str, Any]) -> None:
        """Take a result's time into account.

        Args:
            result: Of a run.
        """
        settings = result["settings"]
        group = (settings["stage"], settings["model"]["name"], settings["regime"]["name"])
        if "seconds" in result:
            self.seconds[group].append(sum(result["seconds"].values()))

    def plan(self, now: Sequence[Run], others: Sequence[Run]) -> None:
        """Say what is to do.

        Args:
            now: Runs of this stage.
            others: Runs after it.
        """
        self.left = defaultdict(int)
        for run in [*now, *others]:
            self.left[run.group] += 1

    def done(self, run: Run, outcome: str) -> None:
        """Report one run.

        Args:
            run: The run.
            outcome: In a few words.
        """
        self.left[run.group] -= 1
        total = sum(self.left.values())
        self.say(f"{time.strftime('%H:%M:%S')} {run}: {outcome}; {total} runs left, {self.estimate()}")

    def estimate(self) -> str:
        """Say how long what is left takes, from the median of runs alike; of all runs where there are none yet.

        Returns:
            A few words.
        """
        # Not the mean: the run that first needs a teacher makes it.
        known = {group: median(values) for group, values in self.seconds.items() if values}
        if not known:
            return "time unknown"
        usual = sum(known.values()) / len(known)
        seconds = sum(count * known.get(group, usual) for group, count in self.left.items()) / self.processes
        guessed = "" if all(group in known for group, count in self.left.items() if count) else ", partly guessed"
        return f"about {seconds / 60:.0f} min{guessed}"


def _blocks(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Put cells with one model and regime together: their results come whole, one block after the other."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.model, cell.regime), []).append(cell)
    yield from groups.values()


def _tuning_runs(matrix: Matrix, cell: Cell, results: Mapping[str, Any]) -> list[Run]:
    return matrix.tuning_runs(cell)


def _test_runs(matrix: Matrix, cell: Cell, results: Mapping[str, Any]) -> list[Run]:
    chosen = matrix.choose(cell, results)
    return [] if chosen is None else matrix.test_runs(cell, *chosen)


def expected_runs(matrix: Matrix, only: Sequence[str], results: Mapping[str, Any]) -> list[Run]:
    """List all runs of a matrix.

    Args:
        matrix: With fingerprints.
        only: Rows; none lists all.
        results: By the key of their run, for what tuning has chosen.

    Returns:
        The runs; where the settings are not chosen yet, with those of the first point of the grid.
    """
    runs = []
    for cell in matrix.cells(only):
        runs += matrix.tuning_runs(cell)
        runs += matrix.test_runs(cell, *(matrix.choose(cell, results) or matrix.grid(cell)[0]))
    return _unique(runs)


def _remaining(matrix: Matrix, only: Sequence[str], results: Mapping[str, Any], now: Sequence[Run]) -> list[Run]:
    here = {run.key for run in now}
    return [run for run in expected_runs(matrix, only, results) if run.key not in results and run.key not in here]


def _unique(runs: Any) -> list[Run]:
    return list({run.key: run for run in runs}.values())


def _work_off(
    runs: Sequence[Run],
    submit: Callable[[Run], Future[dict[str, Any]]],
    processes: int,
    store: Store,
    results: dict[str, dict[str, Any]],
    progress: Progress,
) -> int:
    failures = 0
    waiting = list(reversed(runs))
    at_work: dict[Future[dict[str, Any]], Run] = {}
    while waiting or at_work:
        while waiting and len(at_work) < processes:
            run = waiting.pop()
            at_work[submit(run)] = run
        for future in wait(at_work, return_when=FIRST_COMPLETED).done:
            run = at_work.pop(future)
            try:
                result = future.result()
            except BrokenProcessPool as error:
                raise RuntimeError(
                    "a worker died, probably killed for its memory: start the command again, it goes on where it "
                    "stopped; fewer --processes need less."
                ) from error
            if "error" in result:
                failures += 1
                store.add_failure(result)
                progress.done(run, f"FAILED, {result['error']}")
                continue
            store.add(result)
            results[run.key] = result
            progress.learn(result)
            if "not_applicable" in result:
                progress.done(run, f"not applicable, {result['not_applicable']}")
            else:
                scores = ", ".join(f"{value:.4f}" for value in result["scores"].values())
                progress.done(run, f"{scores} in {sum(result['seconds'].values()):.0f} s")
    return failures


@contextmanager
def _workers(
    matrix: Matrix, output: Path, corpus: str, workshop: Workshop
) -> Iterator[Callable[[Run], Future[dict[str, Any]]]]:
    """Offer a function that starts a run: in this process, or in one of several with their own threads."""
    processes, threads = matrix.machine["processes"], matrix.machine["threads"]
    about = {"machine": machine(threads), "versions": versions(), "commit": commit()}
    if processes == 1:
        torch.set_num_threads(threads)

        def submit(run: Run) -> Future[dict[str, Any]]:
            future: Future[dict[str, Any]] = Future()
            future.set_result(_execute(workshop, output, about, run))
            return future

        yield submit
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    with ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(workshop_options(matrix, output, corpus), threads, os.getpid()),
    ) as pool:
        try:
            yield lambda run: pool.submit(partial(_execute, None, output, about), run)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker(options: Mapping[str, Any], threads: int, parent: int) -> None:
    global _workshop
    torch.set_num_threads(threads)
    _workshop = Workshop(**options)

    def leave_with_parent() -> None:
        # A killed parent leaves its pool waiting for ever.
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def _execute(workshop: Workshop | None, output: Path, about: Mapping[str, Any], run: Run) -> dict[str, Any]:
    workshop = workshop or _workshop
    assert workshop is not None
    result: dict[str, Any] = {"key": run.key, "settings": run.settings, "data": run.data, **about}
    try:
        scores, seconds = workshop.execute(run.settings)
        write_values(output, run.key, scores.queries, scores.values)
    except NotApplicable as reason:
        return result | {"not_applicable": str(reason)}
    except Exception as error:
        return result | {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    return result | {"scores": scores.means, "queries": len(scores.queries), "seconds": seconds}


def machine(threads: int) -> dict[str, Any]:
    """Describe what runs are made on.

    Args:
        threads: Of each run.

    Returns:
        JSON primitives.
    """
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"architecture": platform.machine(), "cores": os.cpu_count(), "threads": threads, "device": device}


def commit() -> str | None:
    """Return the commit of the code, with "+" if it was changed since.

    Returns:
        The commit; ``None`` outside a clone.
    """
    root = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"], cwd=root, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _cached(function: Callable[[str, int | None], str]) -> Callable[[str, int | None], str]:
    known: dict[tuple[str, int | None], str] = {}

    def call(language: str, limit: int | None) -> str:
        if (language, limit) not in known:
            known[language, limit] = function(language, limit)
        return known[language, limit]

    return call
