"""A time limit that also stops a parser, and lets Ctrl-C stop it."""

from __future__ import annotations

import math
import time

from tree_sitter import Parser, Tree


class TimeLimitError(Exception):
    """A file took longer than its time limit."""


class Deadline:
    """The time until which a file may be worked on.

    Args:
        seconds: From now on; None for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    def check(self) -> None:
        """Raise `TimeLimitError` if the time is over."""
        if time.monotonic() > self._end:
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
        is_over = False

        def read(offset: int, point: object) -> memoryview:
            pieces.append(memoryview(data)[offset:])
            return pieces[-1]

        def stop(offset: int, has_error: bool) -> bool:
            nonlocal is_over
            is_over = time.monotonic() > self._end
            return is_over

        try:
            return parser.parse(read, progress_callback=stop)
        except (ValueError, SystemError) as error:
            parser.reset()
            if is_over:
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
