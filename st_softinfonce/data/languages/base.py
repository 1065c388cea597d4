"""What a language has to provide so that functions can be mined from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol

from tree_sitter import Language, Node, Query

from st_softinfonce.data.deadline import NO_DEADLINE, Deadline

_LONGEST_RUN = 1_000  # of signs that do not parse; more are no source


class CleanCode(NamedTuple):
    """A function's source without documentation and comments.

    Args:
        text: The source, dedented; parses in its language.
        lines: How many lines of code it has, the signature counting as one however it is wrapped. 0 for a stub
            (nothing but `pass`, `...` or `raise NotImplementedError`).
    """

    text: str
    lines: int


class FoundFunction(NamedTuple):
    """A function of a file, before the filters that all languages share.

    Args:
        name: The name as qualified inside its file, e.g. `ClassName.method`.
        rule: The rule of `FUNCTION_RULES` that drops it for its language's own reasons, or None.
        doc: Its documentation, dedented, without comment signs and quotes; empty where `rule` is given.
        extract: Makes the code, None if it does not parse. Called last, because it is what costs most. Also given
            where the rule is `no_docstring`.
        line: The line of its file on which it begins, from 1; 0 where `extract` is not given.
    """

    name: str
    rule: str | None = None
    doc: str = ""
    extract: Callable[[], CleanCode | None] = lambda: None
    line: int = 0


@dataclass(frozen=True)
class ParsedFile:
    """A file's functions.

    Args:
        has_error: Whether any part of the file does not parse.
        functions: All its functions in order of position, methods and nested functions included.
    """

    has_error: bool
    functions: Iterator[FoundFunction]


class LanguageMiner(Protocol):
    """All that is particular to one language."""

    source_folders: frozenset[str]
    """Conventional folders above the packages, which are not packages themselves."""

    def is_test(self, parts: Sequence[str]) -> bool:
        """Whether a file is a test, judged by its path relative to the mined root, split at the slashes."""

    def is_package(self, folder: Path) -> bool:
        """Whether a folder is a package in itself, whatever it is called and wherever it lies."""

    def decode(self, data: bytes) -> str:
        """Decode a file's content by the language's rules; `UnicodeError` or `LookupError` where that fails."""

    def parse(self, source: str, deadline: Deadline = NO_DEADLINE) -> ParsedFile:
        """Parse a file in which a line ends in a line feed and nothing else.

        Raises:
            GarbageError: If it is no source.
            TimeLimitError: After the deadline.
        """


@cache
def load_grammar(grammar: Callable[[], object]) -> Language:
    """Load a grammar."""
    return Language(grammar())


@cache
def load_query(grammar: Callable[[], object], query: str) -> Query:
    """Compile a query, which takes a hundredth of a second."""
    compiled: Query = Query(load_grammar(grammar), query)
    return compiled


class GarbageError(Exception):
    """A file holds long runs of signs that do not parse."""


def check_for_garbage(root: Node) -> None:
    """Raise `GarbageError` if thousands of signs in a row do not parse: a query takes quadratic time there."""
    pending = [root] if root.has_error else []
    while pending:
        node = pending.pop()
        # A cursor steps to the next sibling at once; a node looks for it from the root of the tree.
        cursor = node.walk()
        more, run = cursor.goto_first_child(), 0
        while more:
            child = cursor.node
            if child is not None and child.is_named:
                run = 0
                if child.has_error:
                    pending.append(child)
            else:
                run += 1
                if run > _LONGEST_RUN:
                    raise GarbageError
            more = cursor.goto_next_sibling()
