"""Read one source file, unless it is too large, binary, generated, minified or cannot be decoded."""

from __future__ import annotations

import os
import re
from pathlib import Path

from st_softinfonce.data.languages.base import LanguageMiner

_LONG_LINE = 5_000  # longer than any documentation that fits a query, in one line
_HEAD_BYTES = 2_000

# Only what stands before the code counts: below, such words are about something else, or a template of a generator's.
_FIRST_CODE = re.compile(
    rb"^(?:import|from\s+\S+\s+import|def|class|package|using?|require|const|let|var|function|module|public)\b",
    re.MULTILINE,
)
_GENERATED = re.compile(
    rb"@generated\b|\bDO NOT (?:EDIT|MODIFY)\b(?! THIS LINE)"
    rb"|^\W*(?i:auto(?:matically)?[- ]?generated)\b"
    rb"|^\W*(?:Generated|GENERATED|(?i:file|code) generated) (?i:by|from)\b"
    rb"|\b(?i:this (?:file|module|code) (?:is|was|has been) (?:auto(?:matically)?[- ]?|machine-)?generated)\b",
    re.MULTILINE,
)


def read_source(file: Path, miner: LanguageMiner, max_bytes: int) -> tuple[str | None, str]:
    """Read one file.

    Args:
        file: The file.
        miner: The miner of its language, which knows how to decode it.
        max_bytes: The largest size that is read.

    Returns:
        None and the text, its line ends made line feeds; or the rule of `FILE_RULES` that skips it, and nothing.
    """
    try:
        # Opening a pipe would wait for ever.
        if not file.is_file():
            return "unreadable", ""
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > max_bytes:
                return "too_large", ""
            data = stream.read(size)
    except (OSError, ValueError):
        return "unreadable", ""
    if b"\0" in data:
        return "binary", ""
    if _is_generated(data[:_HEAD_BYTES]):
        return "generated", ""
    if _has_long_line(data):
        lengths = list(map(len, data.splitlines()))
        if 2 * sum(length for length in lengths if length > _LONG_LINE) > len(data):
            return "minified", ""
    try:
        text = miner.decode(data)
        text.encode()
    except (UnicodeError, LookupError):
        return "undecodable", ""
    return None, text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _has_long_line(data: bytes) -> bool:
    start = 0
    while len(data) - start > _LONG_LINE:
        end = data.rfind(b"\n", start, start + _LONG_LINE + 1)
        if end < 0:
            return True
        start = end + 1
    return False


def _is_generated(head: bytes) -> bool:
    code = _FIRST_CODE.search(head)
    return _GENERATED.search(head, 0, len(head) if code is None else code.start()) is not None
