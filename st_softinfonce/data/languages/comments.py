"""What the languages share that document a function by a comment before it."""

from __future__ import annotations

import html
import inspect
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from tree_sitter import Language, Node, Parser, Query, QueryCursor

from st_softinfonce.data.languages.base import CleanCode, FoundFunction, ParsedFile
from st_softinfonce.data.languages.edits import REMOVED, apply_edits, clean_lines, count_lines

_BODY = "\0b\0"
_LONGEST_NAME = 1_000
_LONGEST_COMMENT = 10_000  # a first paragraph that is longer makes no query
_STRING = re.compile("\0(\\d+)\0")
_BEFORE_STRING = re.compile(rf"[ \t]*{REMOVED}(?=\0\d)")
_NEVER = re.compile(r"(?!)")
_SPACE = re.compile(rb"\s*")
_BLANK_LINES = (
    2  # line ends between a block comment and its function: an empty line between them is some people's style
)

_STUB = re.compile(
    r"(?:throw|raise|panic)\b[^;\n]*(?:[(,]\s*\n[^;\n]*)*"
    r"(?:not?[ _-]*(?:yet[ _-]*)?(?:implemented|supported)|unimplemented|unsupported|abstract"
    r"|(?:must|should|to) be (?:\w+ )?(?:implement|overrid|overwrit)|must (?:implement|overrid))[^;]*;?",
    re.IGNORECASE,
)
_OTHER_PURPOSE = re.compile(
    r"@(?:licen[sc]e|preserve|copyright|file(?:overview)?|overview|typedef|callback)\b|\bSPDX-"
    r"|\bcopyright (?:\(c\)|©|\d)|\blicensed under\b|\ball rights reserved\b",
    re.IGNORECASE,
)
_RULER_SIGNS = "-=*#/~_+"
_MARKER = re.compile(r"^[ \t]*#?(?:(?:TODO|FIXME|XXX|HACK|NOTE TO SELF)\b|todo[:(])", re.MULTILINE)
_CODE_LINE = re.compile(
    r".*[;{}]$|[\w.$@]+\(.*\)$|(?:end|else|\S+ :?= .*)$|(?:def|func|function|return|if|for|var|let|const) .*[({=].*"
)
_TAG = re.compile(r"^[ \t]*@[A-Za-z]", re.MULTILINE)
_DESCRIPTION = re.compile(r"^[ \t]*@(?:desc(?:ription)?|summary|brief)\b[ \t]*", re.MULTILINE)
_INLINE_TAG = re.compile(r"\{@(\w+)((?:[^{}]|\{[^{}]*\})*)\}")
_LINK = re.compile(r"\[([^\]\n]{1,200})\](?:\(\s*[^()\s]+(?:\s+\"[^\"]*\")?\s*\)|\{@link[^{}]*\})")
_TARGET = re.compile(r"([^ |(]+(?:\([^)]*\))?) ?\|? ?(.*)")
_HTML_BLOCK = r"</?(?:p|ul|ol|li|dl|dt|dd|pre|table|tr|h[1-6]|blockquote)\b[^<>]*>"
_HTML_BREAK = re.compile(
    rf"(?:^|(?<=[.:;!?])|(?<=[.:;!?]\s))[ \t]*{_HTML_BLOCK}|{_HTML_BLOCK}[ \t]*$", re.MULTILINE | re.IGNORECASE
)
_HTML_INLINE = re.compile(
    r"<(code|tt|i|b|em|strong|var|kbd|samp|sub|sup|small|u|a|span|cite)(?:\s[^<>]*)?>((?:(?!<\1\b).)*?)</\1\s*>",
    re.DOTALL | re.IGNORECASE,
)
_HTML_LINE = re.compile(r"[ \t]*<br\s*/?>", re.IGNORECASE)
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
    (pragmas), and what `lead` allows. Line comments are documentation only without an empty line.

    Inline tags and links (`{@link A#b text}`, `{@code x}`, `[text](address)`) become their text. HTML that is
    everyday in such documentation is no markup: paired inline elements (`<code>x</code>`, `<b>`, `<a>`) become
    their text, `<p>`, lists and `<pre>` at a line's or sentence's end end the paragraph, entities are resolved.
    Any other HTML is left, and drops the pair by the rule `query_markup`. Tags (`@param`) end the documentation; a
    documentation that begins with tags is what `@description` or `@summary` says, if any.

    Licences, files' overviews, types, section rulers, markers (`TODO`) and code that is commented out are none.

    The code is the function with what `lead` names as its head, comments removed, blank lines squeezed, dedented. A
    function without a body, with an empty one, or one that only says that it is not implemented, is a stub.
    Anonymous functions are not counted; what is defined inside one, such as a module's wrapper, stands where it does.
    """

    grammar: ClassVar[Callable[[], object]]
    query: ClassVar[str]
    """What to look at: captures `function`, `container` (gives what is inside its name), `comment` and `string`."""
    line_sign: ClassVar[str | None] = None
    """What begins a line of documentation; None where documentation is `/** */`."""
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
    tag: ClassVar[re.Pattern[str]] = _TAG
    source_folders: frozenset[str] = frozenset({"src", "lib"})

    def __init__(self) -> None:
        language = Language(type(self).grammar())
        self._parser = Parser(language)
        self._query = Query(language, self.query)
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

    def parse(self, source: str) -> ParsedFile:
        """Parse a file; its clean functions are found even where other parts are broken."""
        data = source.encode()
        root = self._parser.parse(data).root_node
        return ParsedFile(root.has_error, self._functions(data, root))

    def name_of(self, data: bytes, node: Node) -> str:
        """Name a function or container, without what surrounds it."""
        name = node.child_by_field_name("name")
        return "" if name is None else text_of(data, name)

    def body_of(self, node: Node) -> Node | None:
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

    def _functions(self, data: bytes, root: Node) -> Iterator[FoundFunction]:
        captures = QueryCursor(self._query).captures(root)
        comments = sorted((node.start_byte, node.end_byte) for node in captures.get("comment", ()))
        strings = [(node.start_byte, node.end_byte) for node in captures.get("string", ())]
        strings = sorted(span for span in strings if data.find(b"\n", *span) >= 0)
        file = _File(data, [start for start, _ in comments], [end for _, end in comments], strings)
        found = [(node.start_byte, -node.end_byte, True, node) for node in captures.get("function", ())]
        found += [(node.start_byte, -node.end_byte, False, node) for node in captures.get("container", ())]
        found.sort(key=lambda item: item[:2])
        surrounding: list[tuple[int, bool, str]] = []  # end, is a function, qualified name
        for start, end, is_function, node in found:
            while surrounding and surrounding[-1][0] <= start:
                surrounding.pop()
            nested = bool(surrounding) and surrounding[-1][1]
            name = self.name_of(data, node)
            prefix = surrounding[-1][2] if surrounding else ""
            # Of code that is nested thousands deep, the names alone would fill the memory.
            qualified = f"{prefix}.{name}".strip(".") if len(prefix) < _LONGEST_NAME else name
            surrounding.append((-end, is_function or nested, qualified))
            if is_function:
                yield self._function(file, node, name.rpartition(".")[2], qualified, nested)

    def _function(self, file: _File, node: Node, name: str, qualified: str, nested: bool) -> FoundFunction:
        if nested:
            return FoundFunction(qualified, "nested")
        if self.is_special(node, name):
            return FoundFunction(qualified, "special_method")
        if self.is_test_function(file.data, node, name):
            return FoundFunction(qualified, "test")
        comment, start = self._comment(file, node.start_byte)
        if self.special_doc.search(comment) is not None:
            return FoundFunction(qualified, "special_method")
        doc = self._doc(comment[:_LONGEST_COMMENT], name) if comment else None
        if doc is None:
            return FoundFunction(qualified, "no_docstring")
        if node.has_error:
            return FoundFunction(qualified, "syntax_error")
        return FoundFunction(qualified, None, doc, partial(self._code, file, node, start))

    def _comment(self, file: _File, start: int) -> tuple[str, int]:
        """The comment that documents what begins at `start`, if any, and where the code begins."""
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
            if self.line_sign is not None:
                return ("" if lines > 1 else self._lines_until(file, index)), code
            if lines > _BLANK_LINES:
                break
            if file.data.startswith(b"/**", start) and file.data[start + 3 : start + 4] not in b"*/":
                return file.data[start : file.ends[index]].decode(), code
            index -= 1
        return "", code

    def _lines_until(self, file: _File, index: int) -> str:
        """The comment `index`, and the line comments on the lines right above it."""
        sign = (self.line_sign or "").encode()
        last = index
        while True:
            start = file.starts[index]
            line = file.data.rfind(b"\n", 0, start) + 1
            if file.data[line:start].strip():
                # It is about the code before it.
                index += 1
                break
            above = index - 1
            if above < 0 or not line - 1 <= file.ends[above] <= line or not file.data.startswith(sign, start):
                break
            if not file.data.startswith(sign, file.starts[above]):
                break
            index = above
        return file.data[file.starts[index] : file.ends[last]].decode() if index <= last else ""

    def _doc(self, comment: str, name: str) -> str | None:
        """The documentation that a comment holds, None if it is a comment on something else."""
        if self.line_sign is not None and comment.startswith(self.line_sign):
            lines = [line.lstrip() for line in comment.split("\n")]
            lines = [self._signs.sub("", line, count=1) for line in lines if self.pragma.match(line) is None]
            doc = inspect.cleandoc("\n" + "\n".join(lines))
        else:
            doc = inspect.cleandoc(self.uncomment(comment))
        if not doc or _OTHER_PURPOSE.search(doc) is not None or _is_boxed(doc):
            return None
        if self.line_sign is not None and _is_code(doc):
            return None
        text = clean_markup(_before_tags(_without_rulers(doc), self.tag))
        return self.clean_doc(text, name).strip()

    def _code(self, file: _File, node: Node, start: int) -> CleanCode | None:
        body = self.body_of(node)
        if body is None:
            return CleanCode("", 0)
        data, end = file.data, node.end_byte
        braces = data.startswith(b"{", body.start_byte)
        mark = body.start_byte + braces
        edits = [(mark, mark, _BODY)]
        for index in range(bisect_left(file.starts, start), bisect_left(file.starts, end)):
            edits.append(_edit(data, file.starts[index], file.ends[index]))
        strings: list[str] = []
        for span in file.strings[bisect_left(file.strings, (start, 0)) : bisect_left(file.strings, (end, 0))]:
            edits.append((*span, f"\0{len(strings)}\0"))
            strings.append(data[slice(*span)].decode())
        line = data.rfind(b"\n", 0, start) + 1
        indent = _leading_space(data, line, start).decode()
        # A comment may end the line of which a string, a Ruby here document, begins with the end.
        marked = clean_lines(_BEFORE_STRING.sub("", apply_edits(data, start, end, edits)), indent)
        head, tail = (_STRING.sub(lambda mark: strings[int(mark[1])], part) for part in marked.split(_BODY))
        content = (tail.removesuffix("}") if braces else tail.removesuffix("end")).strip()
        if not content or _STUB.fullmatch(content):
            return CleanCode("", 0)
        # What follows the signature on its line belongs to it.
        rest = tail.partition("\n")[2] if head.rpartition("\n")[2].strip() else tail
        return CleanCode(head + tail, 1 + count_lines(rest))


def text_of(data: bytes, node: Node) -> str:
    """Get the source of a node."""
    return data[node.start_byte : node.end_byte].decode()


def clean_markup(doc: str) -> str:
    """Replace inline tags, links and everyday HTML by their text; see `CommentMiner`."""
    if "[" in doc:
        doc = _LINK.sub(r"\1", doc)
    if "{@" in doc:
        doc = _INLINE_TAG.sub(_tagged_text, doc)
    if "<" in doc:
        doc = _HTML_LINE.sub(" ", _HTML_BREAK.sub("\n\n", doc))
        for _ in range(2):
            doc = _HTML_INLINE.sub(r"\2", doc)
    return html.unescape(doc) if "&" in doc else doc


def _tagged_text(tag: re.Match[str]) -> str:
    kind, content = tag[1].lower(), " ".join(tag[2].split())
    if kind in ("inheritdoc", "docroot"):
        return ""
    if kind == "return":
        # Javadoc makes a sentence of it, with whatever tags are in it.
        return f"Returns {_INLINE_TAG.sub(_tagged_text, content).rstrip('.')}."
    target = (
        _TARGET.fullmatch(content) if kind in ("link", "linkplain", "linkcode", "see", "value", "tutorial") else None
    )
    if target is None:
        return content
    return target[2] or target[1].replace("#", ".").lstrip(".")


def _is_ruler(line: str) -> bool:
    return len(line.strip()) > 2 and not line.strip(_RULER_SIGNS + " \t")


def _without_rulers(doc: str) -> str:
    """The lines but for rulers, whether or not a title is set into them."""
    return "\n".join("" if _is_ruler(line) or _is_title(line.strip()) else line for line in doc.split("\n"))


def _is_title(line: str) -> bool:
    ends = line[:3], line[-3:]
    return ends[0] == ends[1] == ends[0][:1] * 3 and ends[0][:1] in _RULER_SIGNS and len(line) > 6


def _is_boxed(doc: str) -> bool:
    """Whether rulers frame a text, as they do a section's title."""
    lines = doc.split("\n")
    return len(lines) > 2 and _is_ruler(lines[0]) and _is_ruler(lines[-1])


def _is_code(doc: str) -> bool:
    """Whether most lines of the first paragraph are code that is commented out."""
    lines = doc.strip().partition("\n\n")[0].split("\n")
    return 2 * sum(_CODE_LINE.fullmatch(line.strip()) is not None for line in lines) > len(lines)


def _before_tags(doc: str, tag: re.Pattern[str]) -> str:
    """What stands before the first tag, or what the tag for a description says if that is nothing."""
    first = tag.search(doc)
    text = doc if first is None else doc[: first.start()]
    description = None if text.strip() else _DESCRIPTION.search(doc)
    if description is not None:
        following = tag.search(doc, description.end())
        text = doc[description.end() : None if following is None else following.start()]
    marker = _MARKER.search(text)
    return text if marker is None else text[: marker.start()]


def _leading_space(data: bytes, start: int, end: int) -> bytes:
    space = _SPACE.match(data, start, end)
    return b"" if space is None else space[0]


def _edit(data: bytes, start: int, end: int) -> tuple[int, int, str]:
    """What to take out for a comment, and what to leave in its place so that the code on its two sides stays apart."""
    before = data[data.rfind(b"\n", 0, start) + 1 : start]
    following = data.find(b"\n", end)
    if not before.strip() or not data[end : None if following < 0 else following].strip():
        return start, end, REMOVED
    if data.find(b"\n", start, end) >= 0:
        # Where a line end ends a statement, one in a comment does.
        return start, end, "\n"
    blank = data[end : end + 1].isspace()
    if before[-1:] in b" \t([{":
        return start, end + blank, ""
    return start, end, "" if blank else " "
