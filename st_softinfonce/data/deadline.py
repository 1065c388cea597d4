"""A time limit that also stops a parser, and lets Ctrl-C stop it."""

from __future__ import annotations

import math
import time

from tree_sitter import Parser, Tree

_SECONDS = 1.0
_SECONDS_A_BYTE = 2e-5


class TimeLimitError(Exception):
    """A file took longer than its time limit."""


class Deadline:
    """The computing time that a file may take; what else the machine does is no file's fault.

    What does not parse can take a parser time that grows with the square of its size, and faster. So a file has time
    in proportion to its size, some 50 times of what source takes, and `seconds` at most.

    Args:
        seconds: From now on; None for no limit.
        size: The file's size in bytes.
    """

    def __init__(self, seconds: float | None, size: int = 0) -> None:
        allowed = math.inf if seconds is None else min(seconds, _SECONDS + _SECONDS_A_BYTE * size)
        self._end = time.thread_time() + allowed
        self._earliest = time.monotonic() + allowed

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        # A thread's own time is dear to ask for, and is never more than has passed.
        return time.monotonic() > self._earliest and time.thread_time() > self._end

    def check(self) -> None:
        """Raise `TimeLimitError` if the time is over."""
        if self.is_over:
            raise TimeLimitError

    def parse(self, parser: Parser, data: bytes) -> Tree:
        """Parse a file, `TimeLimitError` being raised when the time is over.

        Args:
            parser: The parser, which can be used again afterwards in any case.
            data: The file.

        Returns:
            The tree.
        """
        pieces: list[memoryview] = []
        is_late = False

        def read(offset: int, point: object) -> memoryview:
            pieces.append(memoryview(data)[offset:])
            return pieces[-1]

        def stop(offset: int, has_error: bool) -> bool:
            nonlocal is_late
            is_late = self.is_over
            return is_late

        try:
            return parser.parse(read, progress_callback=stop)
        except (ValueError, SystemError) as error:
            parser.reset()
            if is_late:
                raise TimeLimitError from None
            if isinstance(error.__cause__, KeyboardInterrupt):
                # Raised inside the callback, from where the parser hands on no exception as it is.
                raise KeyboardInterrupt from None
            raise
        finally:
            # The parser keeps what it was given for ever (tree-sitter 0.26), and the file with it.
            data = b""
            for piece in pieces:
                piece.release()


NO_DEADLINE = Deadline(None)
