"""Edits of source code that every language needs: what comes out, and how what is left is laid out."""

from __future__ import annotations

# A NUL never occurs in a file that is mined, so this cannot be mistaken for source.
REMOVED = "\0r\0"
# Without these, no line ends in a blank or follows two line ends.
_UNCLEAN = (REMOVED, "\n\n\n", " \n", "\t\n", "\f", "\v")


def apply_edits(data: bytes, start: int, end: int, edits: list[tuple[int, int, str]]) -> str:
    """Replace ranges of a part of a file.

    Args:
        data: The file.
        start: Where the part begins.
        end: Where the part ends.
        edits: Start, end and replacement of each range; of two that overlap the one that begins first, or is named
            first, counts.

    Returns:
        The part with its replacements.
    """
    pieces = []
    position = start
    for first, last, replacement in sorted(edits, key=lambda edit: edit[0]):
        if first >= position:
            pieces += [data[position:first].decode(), replacement]
            position = last
    pieces.append(data[position:end].decode())
    return "".join(pieces)


def clean_lines(text: str, indent: str) -> str:
    """Dedent lines, drop what is marked as `REMOVED`, and squeeze blank lines.

    Args:
        text: Lines of source.
        indent: What is taken off the start of each line, as far as the line has it.

    Returns:
        The lines; one of which nothing is left has gone.
    """
    if text.isascii() and text[:1] != "\n" and not any(map(text.__contains__, _UNCLEAN)):
        dedented = f"\n{text}".replace(f"\n{indent}", "\n") if indent else f"\n{text}"
        # Each line has lost its indent, or is blank.
        if not indent or len(dedented) == len(text) + 1 - len(indent) * (
            dedented.count("\n") - dedented.count("\n\n")
        ):
            return dedented[1:].rstrip()
    lines: list[str] = []
    for line in text.split("\n"):
        removed = REMOVED in line
        kept = (line.replace(REMOVED, "") if removed else line).rstrip()
        # The line after a backslash belongs to the statement before it, even if it is empty.
        if not kept and (removed or (lines and not lines[-1])) and not (lines and lines[-1].endswith("\\")):
            continue
        if kept.startswith(indent):
            lines.append(kept[len(indent) :])
        else:
            # A line inside brackets may be indented less than its function.
            lines.append(kept[min(len(indent), len(kept) - len(kept.lstrip(indent))) :])
    return "\n".join(lines).rstrip()


def count_lines(code: str) -> int:
    """Count the lines that are not blank."""
    return sum(map(bool, map(str.strip, code.split("\n"))))
