"""What the languages share that document a function by a comment before it."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from tree_sitter import Node, Parser, Query, QueryCursor

from st_softinfonce.data.deadline import NO_DEADLINE, Deadline
from st_softinfonce.data.docstrings import dedent, without_name
from st_softinfonce.data.languages.base import (
    CleanCode,
    FoundFunction,
    ParsedFile,
    check_for_garbage,
    load_grammar,
    load_query,
)
from st_softinfonce.data.languages.edits import REMOVED, apply_edits, clean_lines, count_lines
from st_softinfonce.data.languages.markup import (
    TAG,
    before_tags,
    clean_markup,
    is_boxed,
    is_code,
    is_of_another_kind,
    without_rulers,
)

_BODY = "\0b\0"
_END = "\0e\0"
_LONGEST_NAME = 1_000
_LONGEST_COMMENT = 10_000  # a first paragraph that is longer makes no query
_LONGEST_INDENT = 1_000
_STRING = re.compile("\0(\\d+)\0")
_BEFORE_STRING = re.compile(rf"[ \t]*{REMOVED}(?=\0\d)")
_NEVER = re.compile(r"(?!)")
_SPACE = re.compile(rb"\s*")
_BLANK = re.compile(rb"[ \t\r\f\v]*")
_BLANK_LINES = (
    2  # line ends between a block comment and its function: an empty line between them is some people's style
)

_STUB = re.compile(
    r"(?:throw|raise|panic)\b[^;\n]*(?:[(,]\s*\n[^;\n]*)*"
    r"(?:not?[ _-]*(?:yet[ _-]*)?(?:implemented|supported)|unimplemented|unsupported|abstract"
    r"|(?:must|should|to) be (?:\w+ )?(?:implement|overrid|overwrit)|must (?:implement|overrid))[^;]*;?",
    re.IGNORECASE,
)
_SIGN = re.compile(r"^[ \t]*\*+(?: |$)|^[ \t]*\*(?=[^ *])", re.MULTILINE)


@dataclass(frozen=True)
class _File:
    data: bytes
    starts: list[int]
    """Where the comments begin."""
    ends: list[int]
    strings: list[tuple[int, int]]
    """The literals in which line ends and blanks count."""


class CommentMiner:
    """Finds the functions of files whose language documents them by comments; see `LanguageMiner`.

    A subclass names its grammar, its nodes and its customs. The documentation is the comment right before the
    function: what stands between them is white space with at most one empty line, comments of another kind
    (pragmas), and what `lead` allows. Line comments are documentation only without an empty line. What stands after
    the function's modifiers (`#[Pure] /** */ function`), or before its signatures, counts if there is no other.

    Inline tags and links (`{@link A#b text}`, `{@code x}`, `[text](address)`) become their text. HTML that is
    everyday in such documentation is no markup: paired inline elements (`<code>x</code>`, `<b>`, `<a>`) become
    their text, `<p>`, lists and `<pre>` at a line's or sentence's end end the paragraph, entities are resolved.
    Any other HTML is left, and drops the pair by the rule `query_markup`. Tags (`@param`) end the documentation; a
    documentation that begins with tags is what `@description` or `@summary` says, or what `@return` does, if any. A
    function's name that is set off at the start (`add - Adds`) is left out.

    Licences, files' overviews, types, section rulers and code that is commented out are none.

    The code is the function with what `lead` names as its head, comments removed, blank lines squeezed, dedented. A
    function without a body, with an empty one, or one that only says that it is not implemented, is a stub.
    Anonymous functions are not counted; what is defined inside one, such as a module's wrapper, stands where it does.
    """

    grammars: ClassVar[Sequence[Callable[[], object]]]
    query: ClassVar[str]
    """What to look at: captures `function`, `container` (gives what is inside its name), `comment` and `string`;
    `wrapped` (a function if `body_of` finds one) and `signature` (of a function that follows with its body)."""
    line_sign: ClassVar[str | None] = None
    """What begins a line of documentation, if anything does."""
    opening: ClassVar[bytes] = b"/*"
    """What begins a block comment."""
    closing: ClassVar[bytes] = b"\n/**/"
    """What ends a block comment that is open, and is a comment where none is."""
    has_doc_blocks: ClassVar[bool] = True
    """Whether `/** */` is documentation, and other block comments are none."""
    lead: ClassVar[re.Pattern[bytes]] = _SPACE
    """What may stand between documentation and function; its group `head`, if any, begins the code."""
    special: ClassVar[re.Pattern[str]]
    """Names of constructors and standard methods."""
    special_doc: ClassVar[re.Pattern[str]] = _NEVER
    """What a comment says of a constructor."""
    test_name: ClassVar[re.Pattern[str]] = re.compile(r"test(?![a-z]).*")
    test_folder: ClassVar[re.Pattern[str]]
    test_file: ClassVar[re.Pattern[str]]
    manifests: ClassVar[tuple[str, ...]]
    """Patterns of the files one of which a package's folder holds."""
    pragma: ClassVar[re.Pattern[str]] = _NEVER
    """Lines of a comment that are for tools."""
    tag: ClassVar[re.Pattern[str]] = TAG
    is_type_signed: ClassVar[bool] = True
    """Whether `@return` writes a type in brackets, if it writes one."""
    source_folders: frozenset[str] = frozenset({"src", "lib"})

    def __init__(self) -> None:
        self._parsers: dict[int, Parser] = {}
        # RDoc's `##` and `///` are signs too; more of them rule a line, or set a heading.
        sign, last = re.escape(self.line_sign or ""), re.escape((self.line_sign or " ")[-1])
        self._signs = re.compile(rf"{sign}(?:{last}{{0,2}}$|{last}(?!{last}))?")
        self._packages: dict[Path, bool] = {}

    def is_test(self, parts: Sequence[str]) -> bool:
        """Whether the path lies in a test folder or has the name of a test file."""
        return any(map(self.test_folder.fullmatch, parts[:-1])) or self.test_file.fullmatch(parts[-1]) is not None

    def is_package(self, folder: Path) -> bool:
        """Whether a folder holds a package manager's description of itself."""
        if folder not in self._packages:
            self._packages[folder] = self.has_manifest(folder)
        return self._packages[folder]

    def has_manifest(self, folder: Path) -> bool:
        """Look for one of the `manifests`."""
        return any(path.is_file() for pattern in self.manifests for path in folder.glob(pattern))

    def decode(self, data: bytes) -> str:
        """Decode as UTF-8, with or without a byte-order mark."""
        return data.decode("utf-8-sig")

    def parse(self, source: str, deadline: Deadline = NO_DEADLINE) -> ParsedFile:
        """Parse a file; its clean functions are found even where other parts are broken."""
        data = source.encode()
        root, query, is_clean = self._parse(data, deadline)
        return ParsedFile(not is_clean, self._functions(data, root, query))

    def order(self, data: bytes) -> Iterable[int]:
        """Say in which order the `grammars` are tried on a file; the first that finds no error counts."""
        return range(len(self.grammars))

    def name_of(self, data: bytes, node: Node) -> str:
        """Name a function or container, without what surrounds it."""
        name = node.child_by_field_name("name")
        return "" if name is None else text_of(data, name)

    def body_of(self, data: bytes, node: Node) -> Node | None:
        """Find the body of a function."""
        return node.child_by_field_name("body")

    def is_special(self, node: Node, name: str) -> bool:
        """Whether a function is a constructor or a standard method."""
        return self.special.fullmatch(name) is not None

    def is_test_function(self, data: bytes, node: Node, name: str) -> bool:
        """Whether a function is a test."""
        return self.test_name.fullmatch(name) is not None

    def uncomment(self, comment: str) -> str:
        """Take the signs off a block comment."""
        return _SIGN.sub("", comment[1:].lstrip("*").removesuffix("/").rstrip().rstrip("*"))

    def clean_doc(self, doc: str, name: str) -> str:
        """Do what the language alone needs with a documentation that has lost its signs and tags."""
        return doc

    def _parse(self, data: bytes, deadline: Deadline) -> tuple[Node, Query, bool]:
        """The file's root, what to ask of it, and whether all of it parses."""
        # Were the last comment left open, each sign of its text that begins one would be followed up to the end.
        whole = data + self.closing if self.opening in data else data
        tried = []
        for index in self.order(data):
            grammar = self.grammars[index]
            if index not in self._parsers:
                self._parsers[index] = Parser(load_grammar(grammar))
            parser, query = self._parsers[index], load_query(grammar, self.query)
            root = deadline.parse(parser, whole).root_node
            tried.append((root, query, not root.has_error))
            if tried[-1][-1]:
                break
        root, query, is_clean = tried[-1] if tried[-1][-1] else tried[0]
        last = root.descendant_for_byte_range(len(whole) - 1, len(whole)) if whole is not data else None
        if last is not None and last.start_byte < len(data) and last.type.endswith("comment"):
            is_clean = False
        check_for_garbage(root)
        return root, query, is_clean

    def _functions(self, data: bytes, root: Node, query: Query) -> Iterator[FoundFunction]:
        captures = QueryCursor(query).captures(root)
        comments = sorted((node.start_byte, node.end_byte) for node in captures.get("comment", ()))
        strings = [(node.start_byte, node.end_byte) for node in captures.get("string", ())]
        strings = sorted(span for span in strings if data.find(b"\n", *span) >= 0)
        file = _File(data, [start for start, _ in comments], [end for _, end in comments], strings)
        found = [(node.start_byte, -node.end_byte, "function", node) for node in captures.get("function", ())]
        for node in captures.get("wrapped", ()):
            if self.body_of(data, node) is not None:
                found.append((node.start_byte, -node.end_byte, "function", node))
        found += [(node.start_byte, -node.end_byte, "container", node) for node in captures.get("container", ())]
        found += [(node.start_byte, -node.end_byte, "signature", node) for node in captures.get("signature", ())]
        # Where both are the same code, the function comes first.
        found.sort(key=lambda item: (item[0], item[1], item[2] != "function"))
        surrounding: list[tuple[int, bool, str]] = []  # end, is a function, qualified name
        signatures: list[tuple[str, int]] = []  # qualified name, start: those since the last function
        position = (-1, 0)
        for start, end, kind, node in found:
            if position == (start, end):
                continue
            position = (start, end)
            while surrounding and surrounding[-1][0] <= start:
                surrounding.pop()
            nested = bool(surrounding) and surrounding[-1][1]
            name = self.name_of(data, node)
            prefix = surrounding[-1][2] if surrounding else ""
            # Of code that is nested thousands deep, the names alone would fill the memory.
            qualified = f"{prefix}.{name}".strip(".") if len(prefix) < _LONGEST_NAME else name
            if kind == "signature":
                signatures.append((qualified, start))
                continue
            surrounding.append((-end, kind == "function" or nested, qualified))
            if kind == "function":
                overloads = [place for signed, place in signatures if signed == qualified]
                signatures.clear()
                yield self._function(file, node, name.rpartition(".")[2], qualified, nested, overloads)

    def _function(
        self, file: _File, node: Node, name: str, qualified: str, nested: bool, overloads: list[int]
    ) -> FoundFunction:
        if nested:
            return FoundFunction(qualified, "nested")
        if self.is_special(node, name):
            return FoundFunction(qualified, "special_method")
        if self.is_test_function(file.data, node, name):
            return FoundFunction(qualified, "test")
        comment, first, start = self._comment(file, node.start_byte)
        if not comment and self.has_doc_blocks:
            comment, first = self._comment_inside(file, node)
        for place in reversed(overloads):
            if not comment:
                comment, first, _ = self._comment(file, place)
        if self.special_doc.search(comment) is not None:
            return FoundFunction(qualified, "special_method")
        doc = self._doc(comment[:_LONGEST_COMMENT], name, first == 0) if comment else None
        extract, line = partial(self._code, file, node, start), node.start_point.row + 1
        if doc is None:
            return FoundFunction(qualified, "no_docstring", "", extract, line)
        if node.has_error:
            return FoundFunction(qualified, "syntax_error")
        return FoundFunction(qualified, None, doc, extract, line)

    def _comment(self, file: _File, start: int) -> tuple[str, int, int]:
        """The comment that documents what begins at `start`, if any, its index, and where the code begins."""
        index = bisect_left(file.starts, start) - 1
        code, lead = start, self.lead
        while index >= 0:
            gap = lead.fullmatch(file.data, file.ends[index], start)
            if gap is None:
                break
            lines = _leading_space(file.data, gap.start(), start).count(b"\n")
            if gap.lastgroup == "head":
                code = gap.start("head")
            lead, start = _SPACE, file.starts[index]
            if self._is_line(file.data, start) or not self.has_doc_blocks:
                comment, first = ("", index) if lines > 1 else self._lines_until(file, index)
                if comment or not self.has_doc_blocks:
                    return comment, first, code
            elif lines > _BLANK_LINES:
                break
            elif _is_doc_block(file.data, start, file.ends[index]):
                return file.data[start : file.ends[index]].decode(), index, code
            index -= 1
        return "", index, code

    def _comment_inside(self, file: _File, node: Node) -> tuple[str, int]:
        """The documentation that stands between a function's modifiers and its name, if any, and its index."""
        name = node.child_by_field_name("name")
        end = node.start_byte if name is None else name.start_byte
        for index in range(bisect_left(file.starts, end) - 1, bisect_left(file.starts, node.start_byte) - 1, -1):
            start = file.starts[index]
            if _is_doc_block(file.data, start, file.ends[index]):
                comment = node.descendant_for_byte_range(start, file.ends[index])
                parent = None if comment is None else comment.parent
                if parent is not None and (parent == node or parent.type in ("modifiers", "attribute_list")):
                    return file.data[start : file.ends[index]].decode(), index
        return "", -1

    def _is_line(self, data: bytes, start: int) -> bool:
        """Whether the comment that begins at `start` is a line of documentation."""
        return self.line_sign is not None and data.startswith(self.line_sign.encode(), start)

    def _lines_until(self, file: _File, index: int) -> tuple[str, int]:
        """The comment `index` and the line comments on the lines right above it, and the index of the first."""
        last = index
        while True:
            start = file.starts[index]
            line = _line_start(file.data, start)
            if line is None:
                # It is about the code before it.
                index += 1
                break
            above = index - 1
            if above < 0 or not line - 1 <= file.ends[above] <= line or not self._is_line(file.data, start):
                break
            if not self._is_line(file.data, file.starts[above]):
                break
            index = above
        return (file.data[file.starts[index] : file.ends[last]].decode() if index <= last else ""), index

    def _doc(self, comment: str, name: str, is_first: bool) -> str | None:
        """The documentation that a comment holds, None if it is a comment on something else."""
        by_lines = self.line_sign is not None and comment.startswith(self.line_sign)
        if by_lines:
            lines = [line.lstrip() for line in comment.split("\n")]
            lines = [self._signs.sub("", line, count=1) for line in lines if self.pragma.match(line) is None]
            doc = dedent("\n" + "\n".join(lines))
        else:
            doc = dedent(self.uncomment(comment))
        if not doc or is_of_another_kind(doc, is_first) or is_boxed(doc):
            return None
        text = clean_markup(before_tags(without_rulers(doc), self.tag, self.is_type_signed))
        if is_code(text if self.has_doc_blocks else doc):
            return None
        return without_name(self.clean_doc(text, name).strip(), name)

    def _code(self, file: _File, node: Node, start: int) -> CleanCode | None:
        if node.has_error:
            return None
        data, end = file.data, node.end_byte
        body = self.body_of(data, node)
        if body is None:
            return CleanCode("", 0)
        braces = data.startswith(b"{", body.start_byte)
        mark = body.start_byte + braces
        edits = [(mark, mark, _BODY)]
        if braces and body.end_byte < end:
            # What follows is the end of the call that wraps the function.
            edits.append((body.end_byte, body.end_byte, _END))
        for index in range(bisect_left(file.starts, start), bisect_left(file.starts, end)):
            edits.append(_edit(data, file.starts[index], file.ends[index]))
        strings: list[str] = []
        for span in file.strings[bisect_left(file.strings, (start, 0)) : bisect_left(file.strings, (end, 0))]:
            edits.append((*span, f"\0{len(strings)}\0"))
            strings.append(data[slice(*span)].decode())
        line = data.rfind(b"\n", max(0, start - _LONGEST_INDENT), start) + 1
        indent = _leading_space(data, line, start).decode()
        # A comment may end the line of which a string, a Ruby here document, begins with the end.
        marked = clean_lines(_BEFORE_STRING.sub("", apply_edits(data, start, end, edits)), indent)
        head, tail = (_STRING.sub(lambda mark: strings[int(mark[1])], part) for part in marked.split(_BODY))
        content, _, wrapping = tail.partition(_END)
        content = (content.removesuffix("}") if braces else content.removesuffix("end")).strip()
        if not content or _STUB.fullmatch(content):
            return CleanCode("", 0)
        tail = tail.replace(_END, "", 1) if wrapping else tail
        # What follows the signature on its line belongs to it.
        rest = tail.partition("\n")[2] if head.rpartition("\n")[2].strip() else tail
        return CleanCode(head + tail, 1 + count_lines(rest))


def text_of(data: bytes, node: Node) -> str:
    """Get the source of a node."""
    return data[node.start_byte : node.end_byte].decode()


def _leading_space(data: bytes, start: int, end: int) -> bytes:
    space = _SPACE.match(data, start, end)
    return b"" if space is None else space[0]


def _line_start(data: bytes, start: int) -> int | None:
    """Where the line of `start` begins, None if anything but blanks stands before it."""
    while start and data[start - 1] in b" \t\r\f\v":
        start -= 1
    return start if not start or data[start - 1] == 0x0A else None


def _is_doc_block(data: bytes, start: int, end: int) -> bool:
    """Whether a comment is `/** */`, or has one more star; between such stars on both sides, a title stands."""
    if not data.startswith(b"/**", start) or data[start + 3 : start + 4] == b"/":
        return False
    if data[start + 3 : start + 4] != b"*":
        return True
    is_title = data.startswith(b"***/", end - 4) and data.find(b"\n", start, end) < 0
    return data[start + 4 : start + 5] not in b"*/" and not is_title


def _edit(data: bytes, start: int, end: int) -> tuple[int, int, str]:
    """What to take out for a comment, and what to leave in its place so that the code on its two sides stays apart."""
    following = _BLANK.match(data, end)
    last = end if following is None else following.end()
    if _line_start(data, start) is not None or last == len(data) or data[last] == 0x0A:
        return start, end, REMOVED
    if data.find(b"\n", start, end) >= 0:
        # Where a line end ends a statement, one in a comment does.
        return start, end, "\n"
    blank = data[end : end + 1].isspace()
    if data[start - 1 : start] in (b" ", b"\t", b"(", b"[", b"{"):
        return start, end + blank, ""
    return start, end, "" if blank else " "
