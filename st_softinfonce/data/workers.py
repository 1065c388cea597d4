"""Processes that mine files beside this one, and that end where a file takes too long.

They are fresh interpreters that import what mining needs and nothing else: a fork of a process that has loaded
torch may hang, and `multiprocessing` would run the user's script again. No Python code can stop a parser or a regular
expression that is at work, or takes all memory, but a process can be ended.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import IO

from st_softinfonce.data.file_miner import FileMiner, MinedFile, MiningOptions

_PROGRAM = "import sys; sys.path[:] = {path!r}; from st_softinfonce.data.workers import work; work()"
_AHEAD = 4  # jobs a process that are begun before their results are wanted
_TIME_IS_OVER = 1  # the exit status of a process that `faulthandler` ends
_LONGEST = 1e6  # seconds; more cannot be waited for at once
_MOST_BYTES = 2 << 30  # far more than source of any size that is mined
_TRIES = 2  # the system may end a process that is not to blame, where memory is short


class WorkerPool:
    """Mines files in several processes; a context manager.

    Args:
        languages: The languages to mine.
        options: What files are mined by.
        count: The number of processes, which are started as they are needed.
    """

    def __init__(self, languages: Sequence[str], options: MiningOptions, count: int) -> None:
        self._setup = (tuple(languages), options)
        self._count = count
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="mining")
        self._own = threading.local()
        self._lock = threading.Lock()
        self._workers: set[_Worker] = set()
        self._is_closed = False

    def __enter__(self) -> WorkerPool:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes at once, whatever they do."""
        with self._lock:
            self._is_closed = True
            for worker in self._workers:
                worker.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def mine(self, jobs: Iterable[Sequence[tuple[str, str]]]) -> Iterator[list[MinedFile]]:
        """Mine the files of some jobs side by side; the results come in the order of the jobs.

        Args:
            jobs: Place and language of each file.

        Yields:
            What was found in the files of each job; see `begin`.
        """
        begun: deque[Future[list[MinedFile]]] = deque()
        for job in jobs:
            begun.append(self.begin(job))
            if len(begun) >= _AHEAD * self._count:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()

    def begin(self, job: Sequence[tuple[str, str]]) -> Future[list[MinedFile]]:
        """Begin to mine some files, one after another.

        Args:
            job: Place and language of each file.

        Returns:
            What will be found in each. A file that takes too long is skipped as `time_limit`, and one over which two
            processes end as `crashed`; the others are not lost.
        """
        return self._threads.submit(self._mine, list(job))

    def _mine(self, job: list[tuple[str, str]]) -> list[MinedFile]:
        found: list[MinedFile] = []
        tries = 0
        while len(found) < len(job):
            worker = self._worker()
            known = len(found)
            found += worker.mine(job[known:])
            if len(found) == len(job):
                break
            tries = 1 if len(found) > known else tries + 1
            rule = "time_limit" if worker.close() == _TIME_IS_OVER else "crashed"
            self._own.worker = None
            with self._lock:
                self._workers.discard(worker)
            if rule == "time_limit" or tries == _TRIES:
                found.append(MinedFile(rule))
                tries = 0
        return found

    def _worker(self) -> _Worker:
        """The process of this thread."""
        worker: _Worker | None = getattr(self._own, "worker", None)
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the pool is closed")
            if worker is None:
                worker = self._own.worker = _Worker(self._setup)
                self._workers.add(worker)
        return worker


class _Worker:
    """One process, and what it is asked."""

    def __init__(self, setup: tuple[tuple[str, ...], MiningOptions]) -> None:
        program = _PROGRAM.format(path=[path or str(Path.cwd()) for path in sys.path])
        # In a session of its own, Ctrl-C in a terminal does not reach it: this process decides what ends.
        self._process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("a process without pipes")
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._setup = setup
        self._has_begun = False

    def mine(self, job: Sequence[tuple[str, str]]) -> Iterator[MinedFile]:
        """Mine files until there are no more, or the process ends."""
        if not self._has_begun:
            self._begin()
        try:
            pickle.dump(job, self._stdin)
            self._stdin.flush()
        except OSError:
            return
        for _ in job:
            try:
                answer: MinedFile | Exception = pickle.load(self._stdout)
            except (OSError, EOFError, pickle.UnpicklingError):
                return
            if isinstance(answer, Exception):
                raise answer
            yield answer

    def _begin(self) -> None:
        try:
            pickle.dump(self._setup, self._stdin)
            self._stdin.flush()
            pickle.load(self._stdout)
        except (OSError, EOFError) as error:
            # No file is to blame.
            raise RuntimeError(
                f"a process that should mine files could not begin (exit status {self.close()}): see what it wrote to "
                "stderr."
            ) from error
        self._has_begun = True

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()

    def close(self) -> int:
        """Wait for the end of a process that has closed its pipes or was killed; returns its exit status."""
        for pipe in (self._stdin, self._stdout):
            try:
                pipe.close()
            except OSError:
                continue  # what was still to be written cannot be
        return self._process.wait()


def work() -> None:
    """Be such a process: read jobs until there are no more."""
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    jobs = sys.stdin.buffer
    languages, options = pickle.load(jobs)
    miner = FileMiner(languages, options)
    seconds = options.seconds_per_file
    _limit_memory()
    try:
        _answer(answers, True)
        with Path(os.devnull).open("w") as nowhere:
            while True:
                for place, language in pickle.load(jobs):
                    if seconds is not None:
                        faulthandler.dump_traceback_later(min(1.5 * seconds, _LONGEST), exit=True, file=nowhere)
                    try:
                        answer: MinedFile | Exception = miner.mine(place, language)
                    except Exception as error:
                        answer = error
                    faulthandler.cancel_dump_traceback_later()
                    _answer(answers, answer)
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        os._exit(0)  # the process that asks has ended


def _limit_memory() -> None:
    """Have this process end where a parser asks for more and more memory, rather than others of this machine."""
    try:
        resource = import_module("resource")
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit, hard = pages * resource.getpagesize() + _MOST_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]
        if hard == resource.RLIM_INFINITY or limit < hard:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    except (ImportError, OSError):
        return  # a system without such limits


def _answer(answers: IO[bytes], answer: object) -> None:
    pickle.dump(answer, answers)
    answers.flush()
