"""Processes that mine files beside this one.

They are fresh interpreters that import what mining needs and nothing else: a fork of a process that has loaded
torch may hang, and `multiprocessing` would run the user's script again. Each is led by a thread of this process, and
ends when this process does.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

from st_softinfonce.data.file_miner import FileMiner, MinedFile, MiningOptions

_PROGRAM = "import sys; sys.path[:] = {path!r}; from st_softinfonce.data.workers import work; work()"
_AHEAD = 4  # jobs a process that are begun before their results are wanted
_GRACE = 5.0  # seconds that a process has to begin with, and beyond the limits of its files


class WorkerPool:
    """Mines files in several processes; a context manager.

    Args:
        languages: The languages to mine.
        options: What files are mined by.
        count: The number of processes.
    """

    def __init__(self, languages: Sequence[str], options: MiningOptions, count: int) -> None:
        self._setup = (tuple(languages), options)
        self._seconds = options.seconds_per_file
        self._count = count
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="mining")
        self._own = threading.local()
        self._workers: set[_Worker] = set()
        self._is_closed = False

    def __enter__(self) -> WorkerPool:
        """Begin; processes are started as they are needed."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes at once."""
        self._is_closed = True
        for worker in list(self._workers):
            worker.kill()
        self._threads.shutdown(cancel_futures=True)

    def mine(self, jobs: Iterable[Sequence[tuple[str, str]]]) -> Iterator[list[MinedFile]]:
        """Mine the files of some jobs; the results come in the order of the jobs.

        Args:
            jobs: Place and language of each file.

        Yields:
            What `FileMiner.mine` returns for each job. A file that ends its process twice is skipped as `crashed`,
            and one that goes on far beyond its time as `time_limit`.
        """
        begun: deque[Future[list[MinedFile]]] = deque()
        for job in jobs:
            begun.append(self._threads.submit(self._mine, list(job)))
            if len(begun) >= _AHEAD * self._count:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()

    def _mine(self, job: list[tuple[str, str]]) -> list[MinedFile]:
        """Mine a job, and its files one by one if its process ends over it."""
        answer = self._ask(job)
        if not isinstance(answer, str):
            return answer
        found = []
        for file in job:
            alone = self._ask([file])
            found += [MinedFile(alone)] if isinstance(alone, str) else alone
        return found

    def _ask(self, job: list[tuple[str, str]]) -> list[MinedFile] | str:
        """What a process answers, or the rule that says why it does not."""
        worker: _Worker | None = getattr(self._own, "worker", None)
        if worker is None and not self._is_closed:
            worker = self._own.worker = _Worker(self._setup)
            self._workers.add(worker)
        if worker is None or self._is_closed:
            raise RuntimeError("the pool is closed")
        seconds = None if self._seconds is None else _GRACE + self._seconds * len(job)
        answer = worker.ask(job, seconds)
        if isinstance(answer, str):
            self._own.worker = None
            self._workers.discard(worker)
            worker.kill()
        return answer


class _Worker:
    """One process."""

    def __init__(self, setup: tuple[tuple[str, ...], MiningOptions]) -> None:
        program = _PROGRAM.format(path=[path or str(Path.cwd()) for path in sys.path])
        # In a session of its own, Ctrl-C in a terminal is this process's alone.
        self._process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._setup: tuple[tuple[str, ...], MiningOptions] | None = setup
        """What it needs to know before its first job; None once that was sent."""

    def ask(self, job: list[tuple[str, str]], seconds: float | None) -> list[MinedFile] | str:
        """Have a job done; the rule that says why not if the process ends, or must be ended."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("a process without pipes")
        is_late = threading.Event()

        def end() -> None:
            is_late.set()
            self._process.kill()

        timer = None if seconds is None else threading.Timer(seconds, end)
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            self._begin(stdin, stdout)
            pickle.dump(job, stdin)
            stdin.flush()
            answer: list[MinedFile] | Exception = pickle.load(stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            return "time_limit" if is_late.is_set() else "crashed"
        finally:
            if timer is not None:
                timer.cancel()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _begin(self, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        if self._setup is None:
            return
        try:
            pickle.dump(self._setup, stdin)
            stdin.flush()
            pickle.load(stdout)
        except (OSError, EOFError) as error:
            # No file is to blame.
            raise RuntimeError(
                f"a process that should mine files could not begin (exit status {self._process.wait()}): see what it "
                "wrote to stderr, or mine with num_proc=1."
            ) from error
        self._setup = None

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue  # what was still to be written cannot be


def work() -> None:
    """Be such a process: read jobs until there are no more."""
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    jobs = sys.stdin.buffer
    languages, options = pickle.load(jobs)
    miner = FileMiner(languages, options)
    pickle.dump(True, answers)
    answers.flush()
    while True:
        try:
            job = pickle.load(jobs)
        except (EOFError, pickle.UnpicklingError):
            return  # the process that asks has ended
        try:
            answer: list[MinedFile] | Exception = miner.mine(job)
        except Exception as error:
            answer = error
        try:
            pickle.dump(answer, answers)
            answers.flush()
        except BrokenPipeError:
            os._exit(0)  # nobody waits for it
