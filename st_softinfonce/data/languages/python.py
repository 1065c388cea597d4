"""Functions, docstrings and code of Python files, by tree-sitter."""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import tree_sitter_python
from tree_sitter import Language, Node, Parser, Query, QueryCursor

from st_softinfonce.data.languages.base import CleanCode, FoundFunction, ParsedFile
from st_softinfonce.data.languages.edits import REMOVED, apply_edits, clean_lines, count_lines

_TEST_FOLDER = re.compile(r"(?:\w+_)?tests?", re.IGNORECASE)
_TEST_FILE = re.compile(r"(?:test_.*|.*_tests?|tests?|conftest)\.py")
_LITERAL = re.compile(r"([A-Za-z]*)('''|\"\"\"|'|\")")
_STUB = re.compile(r"pass|\.\.\.|raise\s+NotImplementedError\b.*", re.DOTALL)

# A NUL never occurs in a file that is mined, so these cannot be mistaken for source.
_DOCSTRING = "\0d\0"
_STRING = re.compile("\0(\\d+)\0")


class Miner:
    """Finds the functions of Python files; see `LanguageMiner`.

    Functions and methods are taken as CodeSearchNet takes them: from `def` on, without decorators. Functions inside
    functions depend on what surrounds them and are dropped by the rule `nested`; dunder methods, constructors
    among them, by `special_method`; names beginning with `test` by `test`.

    The docstring is what Python takes for one: the literal evaluated, prefixes and implicit concatenation included;
    f-strings and bytes are none. It is removed from the code, and so are those of the functions and classes
    inside, except where one is the whole body. Python 2 (`print x`, `exec x`) counts as code that does not parse.
    """

    source_folders = frozenset({"src", "lib", "python"})

    def __init__(self) -> None:
        language = Language(tree_sitter_python.language())
        self._parser = Parser(language)
        self._definitions = Query(language, "(function_definition) @function (class_definition) @class")
        self._details = Query(
            language,
            "(comment) @comment (string) @string (print_statement) @python2 (exec_statement) @python2"
            " (function_definition) @definition (class_definition) @definition",
        )

    def is_test(self, parts: Sequence[str]) -> bool:
        """Whether the path lies in a test folder or has the name of a test file."""
        return any(map(_TEST_FOLDER.fullmatch, parts[:-1])) or _TEST_FILE.fullmatch(parts[-1]) is not None

    def is_package(self, folder: Path) -> bool:
        """Whether a folder can be imported and holds an `__init__.py`."""
        return folder.name.isidentifier() and (folder / "__init__.py").is_file()

    def decode(self, data: bytes) -> str:
        """Decode by byte-order mark or PEP 263 cookie, UTF-8 without either."""
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        except SyntaxError as error:
            raise LookupError(str(error)) from error
        return data.decode(encoding)

    def parse(self, source: str) -> ParsedFile:
        """Parse a file; its clean functions are found even where other parts are broken."""
        data = source.encode()
        root = self._parser.parse(data).root_node
        return ParsedFile(root.has_error, self._functions(data, root))

    def _functions(self, data: bytes, root: Node) -> Iterator[FoundFunction]:
        captures = QueryCursor(self._definitions).captures(root)
        found = [(node.start_byte, True, node) for node in captures.get("function", ())]
        found += [(node.start_byte, False, node) for node in captures.get("class", ())]
        found.sort(key=lambda item: item[0])
        surrounding: list[tuple[int, bool, str]] = []  # end, is a function, qualified name
        for start, is_function, node in found:
            while surrounding and surrounding[-1][0] <= start:
                surrounding.pop()
            name = _name(data, node)
            nested = bool(surrounding) and surrounding[-1][1]
            qualified = f"{surrounding[-1][2]}.{name}" if surrounding else name
            surrounding.append((node.end_byte, is_function or nested, qualified))
            if is_function:
                yield self._function(data, node, name, qualified, nested)

    def _function(self, data: bytes, node: Node, name: str, qualified: str, nested: bool) -> FoundFunction:
        if nested:
            return FoundFunction(qualified, "nested")
        if name.startswith("__") and name.endswith("__"):
            return FoundFunction(qualified, "special_method")
        if name.startswith("test"):
            return FoundFunction(qualified, "test")
        literals = _docstring(data, node)
        if not literals:
            return FoundFunction(qualified, "no_docstring")
        doc = None if node.has_error else _evaluate(data, literals)
        if doc is None:
            return FoundFunction(qualified, "syntax_error")
        return FoundFunction(qualified, None, inspect.cleandoc(doc), partial(self._code, data, node))

    def _code(self, data: bytes, node: Node) -> CleanCode | None:
        return _code(data, node, QueryCursor(self._details).captures(node))


def _name(data: bytes, node: Node) -> str:
    name = node.child_by_field_name("name")
    return "" if name is None else data[name.start_byte : name.end_byte].decode()


def _next_statement(node: Node | None) -> Node | None:
    while node is not None and node.type == "comment":
        node = node.next_named_sibling
    return node


def _first_statements(definition: Node) -> tuple[Node | None, Node | None, Node | None]:
    """The first three statements of a definition's body, None where it has fewer."""
    body = definition.child_by_field_name("body")
    if body is None or not body.named_child_count:
        return None, None, None
    first = _next_statement(body.named_child(0))
    second = None if first is None else _next_statement(first.next_named_sibling)
    third = None if second is None else _next_statement(second.next_named_sibling)
    return first, second, third


def _docstring(data: bytes, definition: Node) -> list[Node]:
    """The string literals that make up a definition's docstring, none if it has no docstring."""
    node = _first_statements(definition)[0]
    if node is None or node.type != "expression_statement" or node.child_count != 1:
        return []
    child: Node | None = node.named_child(0)
    while child is not None and child.type == "parenthesized_expression":
        inner = [part for part in child.named_children if part.type != "comment"]
        child = inner[0] if len(inner) == 1 else None
    literals = []
    if child is not None and child.type == "string":
        literals = [child]
    elif child is not None and child.type == "concatenated_string":
        literals = [part for part in child.named_children if part.type == "string"]
    prefixes = (
        _LITERAL.match(data[part.start_byte : part.start_byte + 5].decode(errors="ignore")) for part in literals
    )
    return literals if all(prefix is not None and prefix[1] in "rRuU" for prefix in prefixes) else []


def _evaluate(data: bytes, literals: list[Node]) -> str | None:
    text = " ".join(data[literal.start_byte : literal.end_byte].decode() for literal in literals)
    match = _LITERAL.match(text)
    if match is not None and len(literals) == 1 and "\\" not in text:
        return text[match.end() : -len(match[2])]
    try:
        with warnings.catch_warnings():
            # Invalid escapes such as "\d" are the mined file's affair.
            warnings.simplefilter("ignore")
            value = ast.literal_eval(f"({text})")
    except (SyntaxError, ValueError):
        return None
    return value if isinstance(value, str) else None


def _code(data: bytes, definition: Node, captures: dict[str, list[Node]]) -> CleanCode | None:
    docstring, statement, more = _first_statements(definition)
    if "python2" in captures:
        return None
    if docstring is None or statement is None:
        return CleanCode("", 0)
    if more is None and _STUB.fullmatch(data[statement.start_byte : statement.end_byte].decode()):
        return CleanCode("", 0)
    edits = [(docstring.start_byte, _end_of_statement(docstring), _DOCSTRING)]
    edits += [(node.start_byte, node.end_byte, REMOVED) for node in captures.get("comment", ())]
    for inner in captures["definition"]:
        first, second, _ = _first_statements(inner)
        if first is not None and second is not None and _docstring(data, inner):
            edits.append((first.start_byte, _end_of_statement(first), REMOVED))
    strings: list[str] = []
    for node in captures.get("string", ()):
        text = data[node.start_byte : node.end_byte]
        if b"\n" in text:
            edits.append((node.start_byte, node.end_byte, f"\0{len(strings)}\0"))
            strings.append(text.decode())
    head, tail = apply_edits(data, definition.start_byte, definition.end_byte, edits).split(_DOCSTRING)
    indent = data[data.rfind(b"\n", 0, definition.start_byte) + 1 : definition.start_byte].decode()
    signature, body = _join(head, tail, indent if not indent.strip() else "")
    code, signature = (_STRING.sub(lambda mark: strings[int(mark[1])], part) for part in (body, signature))
    return CleanCode(code, 1 + count_lines(code) - count_lines(signature))


def _end_of_statement(statement: Node) -> int:
    following = statement.next_sibling
    return following.end_byte if following is not None and following.type == ";" else statement.end_byte


def _join(head: str, tail: str, indent: str) -> tuple[str, str]:
    """The clean signature, and the clean function, from what stands before and after the docstring."""
    signature = clean_lines(head, indent).rstrip()
    rest, newline, following = tail.partition("\n")
    rest = rest.replace(REMOVED, "").lstrip()
    if rest:
        return signature, clean_lines(head + rest + newline + following, indent)
    return signature, f"{signature}\n" + clean_lines(following, indent).lstrip("\n")
