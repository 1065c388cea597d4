"""Functions, docstrings and code of Python files, by tree-sitter."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import tree_sitter_python
from tree_sitter import Node, Parser, QueryCursor

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

_TEST_FOLDER = re.compile(r"(?:\w+_)?tests?", re.IGNORECASE)
_TEST_FILE = re.compile(r"(?:test_.*|.*_tests?|tests?|conftest)\.py")
_LITERAL = re.compile(r"([A-Za-z]*)('''|\"\"\"|'|\")")
_LONGEST_NAME = 1_000
_LONGEST_DOC = 10_000  # a first paragraph that is longer makes no query
_LONGEST_INDENT = 1_000
_MANY = 30
_COMMENTS = re.compile(rb"^[ \t\f]*#[^\n]*(?:\n\s*#[^\n]*){%d,}" % _MANY, re.MULTILINE)
_MIXED_INDENT = re.compile(r"^(?: +\t|\t+ )", re.MULTILINE)
# What Python 3 does not parse, by type of the node that holds it.
_PYTHON2 = {
    "integer": re.compile(rb"0[0-9_]*[1-9]|[0-9a-fA-FxXoObB_]+[lL]$"),
    "string_start": re.compile(rb"[uU][rR]|`"),
    "identifier": re.compile(rb"(?:async|await)$"),
}
# Apart they are found ten times faster than together.
_DEF, _CLASS = re.compile(rb"def[ \t\f\\\n]"), re.compile(rb"class[ \t\f\\\n]")
# What may begin with what the docstring's line holds, or be nothing but a stub.
_PLAIN_REST = re.compile(rb"[ \t]*\n\s*(?:#[^\n]*\n\s*)*(?!#|pass\b|\.\.\.|raise\b)\S")
# Signs that more than the docstring has to go, or stay as it is, or that Python 3 may not parse it.
_SIGNS = (b'"""', b"'''", b"\\\n", b"\t", b"<>", b"async", b"await")
_PYTHON2_SIGNS = re.compile(
    rb"print(?![\w(])|exec(?![\w(])|`|except [^:\n]*,|lambda[^:\n]*\("
    rb"|raise [^\n(]*(?:\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))?[ \t]*,"
    rb"|for [^\n:]*\bin\b[^\n:\[\](){}]*(?:\([^()\n]*\))?[ \t]*,"
    rb"|0[0-9_]*[1-9]|0[xX]\w*[lL]|[0-9][lL]|[uU][rR]['\"]"
)
_EPYTEXT_SIGNS = [f"{letter}{{" for letter in "BCEGILMSUX"]
_EPYTEXT = re.compile(r"(?<!\w)[BCEGILMSUX]\{([^{}<]*)(?:<[^{}<>]*>)?\}")
_STUB = re.compile(r"pass|\.\.\.|raise\s+NotImplementedError\b.*", re.DOTALL)

# A NUL never occurs in a file that is mined, so these cannot be mistaken for source.
_BODY = "\0b\0"
_STRING = re.compile("\0(\\d+)\0")


class Miner:
    """Finds the functions of Python files; see `LanguageMiner`.

    Functions and methods are taken as CodeSearchNet takes them: from `def` on, without decorators. Functions inside
    functions depend on what surrounds them and are dropped by the rule `nested`; dunder methods, constructors
    among them, by `special_method`; names beginning with `test` by `test`.

    The docstring is what Python takes for one: the literal evaluated, prefixes and implicit concatenation included;
    f-strings and bytes are none. It is removed from the code, and so are those of the functions and classes
    inside, except where one is the whole body. What only Python 2 parses (`print x`, `raise E, x`, `a <> b`) does
    not parse.
    """

    source_folders = frozenset({"src", "lib", "python"})

    def __init__(self) -> None:
        self._parser = Parser(load_grammar(tree_sitter_python.language))
        self._definitions = load_query(
            tree_sitter_python.language, "(function_definition) @function (class_definition) @class"
        )
        self._details = load_query(
            tree_sitter_python.language,
            """
            (comment) @comment (string) @string
            (function_definition) @definition (class_definition) @definition
            (print_statement) @python2 (exec_statement) @python2 (raise_statement (expression_list)) @python2
            (comparison_operator "<>") @python2
            (parameters (tuple_pattern) @python2) (lambda_parameters (tuple_pattern) @python2)
            (parameters (default_parameter (tuple_pattern) @python2))
            (except_clause value: (_) "," value: (identifier) @exception)
            (list_comprehension (for_in_clause right: (_) "," right: (_) @python2))
            (integer) @maybe_python2 (string_start) @maybe_python2
            (assignment left: (identifier) @maybe_python2) (call function: (identifier) @maybe_python2)
            (parameters (identifier) @maybe_python2) (default_parameter name: (identifier) @maybe_python2)
            (keyword_argument name: (identifier) @maybe_python2) (attribute attribute: (identifier) @maybe_python2)
            """,
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

    def parse(self, source: str, deadline: Deadline = NO_DEADLINE) -> ParsedFile:
        """Parse a file; its clean functions are found even where other parts are broken."""
        data = source.encode()
        # A comment of many lines is one of one line to the parser, which reads all that follow again at each.
        are_many = data.count(b"#") > _MANY
        parsed = _COMMENTS.sub(lambda lines: lines[0].replace(b"\n", b" "), data) if are_many else data
        root = deadline.parse(self._parser, parsed).root_node
        check_for_garbage(root)
        return ParsedFile(root.has_error, self._functions(data, root))

    def _functions(self, data: bytes, root: Node) -> Iterator[FoundFunction]:
        found = _definitions(data, root)
        if found is None:
            captures = QueryCursor(self._definitions).captures(root)
            found = sorted(
                (*captures.get("function", ()), *captures.get("class", ())), key=lambda node: node.start_byte
            )
        surrounding: list[tuple[int, bool, str]] = []  # end, is a function, qualified name
        for node in found:
            start, is_function = node.start_byte, node.type == "function_definition"
            while surrounding and surrounding[-1][0] <= start:
                surrounding.pop()
            name = _name(data, node)
            nested = bool(surrounding) and surrounding[-1][1]
            prefix = surrounding[-1][2] if surrounding else ""
            # Of code that is nested thousands deep, the names alone would fill the memory.
            qualified = f"{prefix}.{name}" if surrounding and len(prefix) < _LONGEST_NAME else name
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
        literals = _docstring(data, _first_statement(node))
        has_error = node.has_error
        doc = "" if has_error or not literals else _evaluate(data, literals)
        if doc is None or (has_error and literals):
            return FoundFunction(qualified, "syntax_error")
        extract, line = partial(self._code, data, node, literals), node.start_point.row + 1
        if not literals:
            return FoundFunction(qualified, "no_docstring", "", extract, line)
        doc = without_name(_clean_epytext(dedent(doc)[:_LONGEST_DOC]), name)
        return FoundFunction(qualified, None, doc, extract, line)

    def _code(self, data: bytes, node: Node, literals: list[Node]) -> CleanCode | None:
        if node.has_error:
            return None
        plain = _plain_code(data, node, literals[0]) if len(literals) == 1 else None
        return _code(data, node, QueryCursor(self._details).captures(node)) if plain is None else plain


def _definitions(data: bytes, root: Node) -> list[Node] | None:
    """All functions and classes in order of position, by their words; None where that is not certain.

    It takes a tenth of the time that it takes to look at all of the tree.
    """
    if root.has_error:
        return None
    found = []
    words = [*_DEF.finditer(data), *_CLASS.finditer(data)]
    for start, end in sorted(map(re.Match.span, words)):
        # The least that holds the word and the blank behind it.
        node = root.descendant_for_byte_range(start, end)
        if node is not None and node.type in ("function_definition", "class_definition"):
            begin = node.start_byte
            if begin == start or data[begin:start].split() == [b"async"]:
                found.append(node)
    return found


def _name(data: bytes, node: Node) -> str:
    name = node.child_by_field_name("name")
    return "" if name is None else data[name.start_byte : name.end_byte].decode()


def _first_statement(definition: Node) -> Node | None:
    body = definition.child_by_field_name("body")
    first = None if body is None else body.named_child(0)
    if first is not None and first.type == "comment":
        statements = _first_statements(definition)
        return statements[0][0] if statements else None
    return first


def _first_statements(definition: Node) -> list[tuple[Node, int]]:
    """The first three statements of a definition's body, with where each ends, its semicolon included."""
    body = definition.child_by_field_name("body")
    found: list[tuple[Node, int]] = []
    # A cursor steps to the next sibling at once; a node looks for it from the root of the tree.
    cursor = None if body is None else body.walk()
    more = cursor is not None and cursor.goto_first_child()
    while cursor is not None and more:
        node = cursor.node
        if node is not None and node.is_named and node.type != "comment":
            if len(found) == 3:
                break
            found.append((node, node.end_byte))
        elif node is not None and node.type == ";" and found:
            found[-1] = (found[-1][0], node.end_byte)
        more = cursor.goto_next_sibling()
    return found


def _docstring(data: bytes, node: Node | None) -> list[Node]:
    """The string literals that make up a definition's docstring, none if its first statement is none."""
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


def _clean_epytext(doc: str) -> str:
    """Replace Epytext's inline markup (`L{text<target>}`, `C{x}`) by its text."""
    for _ in range(3 if any(map(doc.__contains__, _EPYTEXT_SIGNS)) else 0):
        doc = _EPYTEXT.sub(lambda markup: markup[1].strip(), doc)
    return doc


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
    statements = _first_statements(definition)
    if _is_python2(data, captures):
        return None
    if not statements:
        return CleanCode("", 0)
    first, end = statements[0]
    documented = bool(_docstring(data, first))
    body = statements[1:] if documented else statements
    if not body or (len(body) == 1 and _STUB.fullmatch(data[body[0][0].start_byte : body[0][0].end_byte].decode())):
        return CleanCode("", 0)
    edits = [(first.start_byte, end if documented else first.start_byte, _BODY)]
    edits += [(node.start_byte, node.end_byte, REMOVED) for node in captures.get("comment", ())]
    for inner in captures["definition"]:
        within = _first_statements(inner)
        if len(within) > 1 and _docstring(data, within[0][0]):
            edits.append((within[0][0].start_byte, within[0][1], REMOVED))
    strings: list[str] = []
    for node in captures.get("string", ()):
        literal = data[node.start_byte : node.end_byte]
        if b"\n" in literal:
            edits.append((node.start_byte, node.end_byte, f"\0{len(strings)}\0"))
            strings.append(literal.decode())
    head, tail = apply_edits(data, definition.start_byte, definition.end_byte, edits).split(_BODY)
    line = data.rfind(b"\n", max(0, definition.start_byte - _LONGEST_INDENT), definition.start_byte) + 1
    indent = data[line : definition.start_byte].decode(errors="ignore")
    signature, text = _join(head, tail, indent if not indent.strip() else "")
    code, signature = (_STRING.sub(lambda mark: strings[int(mark[1])], part) for part in (text, signature))
    has_tabs, has_blanks = "\n\t" in code, "\n " in code
    if ((has_tabs and has_blanks) or ("\t" in code and _MIXED_INDENT.search(code))) and not _is_indented_well(code):
        return None
    return CleanCode(code, 1 + count_lines(code) - count_lines(signature))


def _plain_code(data: bytes, definition: Node, doc: Node) -> CleanCode | None:
    """The code of a function in which a docstring and comments are all that has to go; None where that is not sure."""
    begin, end = definition.start_byte, definition.end_byte
    head, following = data[begin : doc.start_byte], data[doc.end_byte : end]
    if head.count(b"(") > 1 or b"#" in head or _PLAIN_REST.match(following) is None:
        return None
    if any(sign in head for sign in _SIGNS) or any(sign in following for sign in _SIGNS):
        return None
    if b"def " in following or b"class " in following or _PYTHON2_SIGNS.search(head) is not None:
        return None
    line = data.rfind(b"\n", max(0, begin - _LONGEST_INDENT), begin) + 1
    indent = data[line:begin].decode(errors="ignore")
    indent = "" if indent.strip() else indent
    signature = clean_lines(head.decode(), indent).rstrip()
    place, edits = data.find(b"#", doc.end_byte, end), []
    while place >= 0:
        node = definition.descendant_for_byte_range(place, place + 1)
        last = place + 1
        if node is not None and node.type == "comment":
            last = node.end_byte
            edits.append((place, last, REMOVED))
        place = data.find(b"#", last, end)
    text = apply_edits(data, data.find(b"\n", doc.end_byte) + 1, end, edits)
    text = clean_lines(text, indent).lstrip("\n")
    if _PYTHON2_SIGNS.search(text.encode()) is not None:
        return None
    return CleanCode(f"{signature}\n{text}", 1 + count_lines(text))


def _is_python2(data: bytes, captures: dict[str, list[Node]]) -> bool:
    """Whether a function uses what Python 3 does not parse and this grammar does."""
    if "python2" in captures:
        return True
    # `except E, e` catches E in Python 2; `except A, B`, of Python 3.14, catches both.
    if any(data[node.start_byte : node.start_byte + 1].islower() for node in captures.get("exception", ())):
        return True
    for node in captures.get("maybe_python2", ()):
        form = _PYTHON2.get(node.type)
        if form is not None and form.match(data, node.start_byte, node.end_byte):
            return True
    return False


def _is_indented_well(code: str) -> bool:
    """Whether the tabs and blanks of the indentation mean the same whatever a tab is worth."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(code)
    except TabError:
        return False
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # Newer syntax than that of the interpreter is not this rule's affair.
        return True
    return True


def _join(head: str, tail: str, indent: str) -> tuple[str, str]:
    """The clean signature, and the clean function, from what stands before and after the docstring."""
    signature = clean_lines(head, indent).rstrip()
    rest, newline, following = tail.partition("\n")
    rest = rest.replace(REMOVED, "").lstrip()
    if rest:
        return signature, clean_lines(head + rest + newline + following, indent)
    return signature, f"{signature}\n" + clean_lines(following, indent).lstrip("\n")
