"""Mine single files: all that does not depend on the other files, and so can be done in any process."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from st_softinfonce._checks import check_count
from st_softinfonce.data.deadline import Deadline, TimeLimitError
from st_softinfonce.data.docstrings import make_query, query_rule
from st_softinfonce.data.languages import load_miners
from st_softinfonce.data.languages.base import FoundFunction, GarbageError, ParsedFile
from st_softinfonce.data.reading import read_source
from st_softinfonce.data.remarks import is_remark

_COUNTS = ("min_query_tokens", "max_query_tokens", "min_code_lines", "max_file_bytes", "max_archive_bytes")


@dataclass(frozen=True)
class MiningOptions:
    """The options of `mine_pairs` that files are mined by, checked."""

    min_query_tokens: int = 3
    max_query_tokens: int = 256
    min_code_lines: int = 3
    max_file_bytes: int = 1_000_000
    max_archive_bytes: int = 1 << 32
    seconds_per_file: float | None = 10.0
    undocumented: bool = False

    def __post_init__(self) -> None:  # noqa: D105
        for name in _COUNTS:
            check_count(name, getattr(self, name), hint="Give a larger one.")
        if self.max_query_tokens < self.min_query_tokens:
            raise ValueError(
                f"max_query_tokens must be at least min_query_tokens ({self.min_query_tokens}), "
                f"got {self.max_query_tokens}: raise the one or lower the other."
            )
        seconds = self.seconds_per_file
        if seconds is not None and (
            isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf
        ):
            raise ValueError(
                f"seconds_per_file must be a positive number of seconds, got {seconds!r}: None sets no limit."
            )


class MinedFunction(NamedTuple):
    """A function that is fit for a row.

    Args:
        name: Its name as qualified inside its file.
        query: Its query; empty if it has none and is only a candidate.
        code: Its code.
        key: The same for functions of one language whose code differs in white space alone.
        query_index: Where its query stands in the file's `queries`; None for a candidate.
        line: The line on which it begins, from 1.
    """

    name: str
    query: str
    code: str
    key: bytes
    query_index: int | None = None
    line: int = 0


@dataclass
class MinedFile:
    """What was found in one file.

    Args:
        rule: The rule of `FILE_RULES` that skips it, or None.
        has_error: Whether some part of it does not parse.
        functions_seen: All its functions.
        dropped: The rules that drop functions, and how many of them.
        functions: The others.
        queries: All that are fit but for their language, which is judged by all of them, also where the code is not.
    """

    rule: str | None = None
    has_error: bool = False
    functions_seen: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    functions: list[MinedFunction] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)

    def drop(self, rule: str) -> None:
        """Count a function under the rule that drops it."""
        self.dropped[rule] = self.dropped.get(rule, 0) + 1


class FileMiner:
    """Mines files, one process for itself.

    Args:
        languages: The languages to mine.
        options: What they are mined by.
    """

    def __init__(self, languages: Sequence[str], options: MiningOptions) -> None:
        self._miners = load_miners(languages)
        self._options = options

    def mine(self, place: str, language: str) -> MinedFile:
        """Mine a file.

        Args:
            place: Where it is.
            language: Its language.

        Returns:
            What was found.
        """
        miner = self._miners[language]
        rule, text = read_source(Path(place), miner, self._options.max_file_bytes)
        if rule is not None:
            return MinedFile(rule)
        deadline = Deadline(self._options.seconds_per_file, len(text))
        try:
            return self._functions(miner.parse(text, deadline), language, deadline)
        except TimeLimitError:
            return MinedFile("time_limit")
        except GarbageError:
            return MinedFile("garbage")
        except (MemoryError, RecursionError):
            return MinedFile("crashed")

    def _functions(self, parsed: ParsedFile, language: str, deadline: Deadline) -> MinedFile:
        file = MinedFile(has_error=parsed.has_error)
        for function in parsed.functions:
            deadline.check()
            file.functions_seen += 1
            rule, query, code = self._examine(function, file.queries)
            if rule is None:
                # White space is no difference.
                words = "\0".join((language, *code.split()))
                key = hashlib.blake2b(words.encode(), digest_size=16).digest()
                index = len(file.queries) - 1 if query else None
                found = MinedFunction(function.name, query, code, key, query_index=index, line=function.line)
                file.functions.append(found)
            else:
                file.drop(rule)
        return file

    def _examine(self, function: FoundFunction, queries: list[str]) -> tuple[str | None, str, str]:
        """The rule that drops a function, or None; its query, which is appended, and its code."""
        options = self._options
        rule, query = function.rule, ""
        if rule is None:
            query = make_query(function.doc)
            rule = query_rule(query, options.min_query_tokens, options.max_query_tokens)
            if rule is None and is_remark(query):
                rule = "query_remark"
        if rule is not None:
            if not options.undocumented or (rule != "no_docstring" and not rule.startswith("query_")):
                return rule, "", ""
            query = ""
        if query:
            queries.append(query)
        code = function.extract()
        if code is None:
            return "syntax_error", "", ""
        if code.lines < options.min_code_lines:
            return "trivial", "", ""
        return None, query, code.text
