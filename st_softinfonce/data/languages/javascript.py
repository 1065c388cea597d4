"""Functions and JSDoc of JavaScript files, by tree-sitter."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import tree_sitter_javascript
from tree_sitter import Node

from st_softinfonce.data.languages.comments import CommentMiner, text_of

FUNCTION = "[(function_expression) (arrow_function) (generator_function)]"
WRAPPED = "[(call_expression) (parenthesized_expression)]"
_FUNCTIONS = frozenset(
    "function_expression arrow_function generator_function function_declaration generator_function_declaration"
    " method_definition".split()
)
# What a value is but for its type, or brackets.
_SAME = frozenset({"parenthesized_expression", "as_expression", "satisfies_expression", "non_null_expression"})
OBJECT = (
    "[(object) (class) (call_expression arguments: (arguments (object)))"
    " (new_expression arguments: (arguments (object)))]"
)
_FIELDS = {
    "variable_declarator": ("name", "value"),
    "assignment_expression": ("left", "right"),
    "pair": ("key", "value"),
    "field_definition": ("property", "value"),
    "public_field_definition": ("name", "value"),
}
# What these return is no function, though they are given one.
_NO_WRAPPER = re.compile(
    r"(?:map|flatMap|filter|reduce|reduceRight|forEach|each|every|some|find|findIndex|findLast|sort|then|catch|finally"
    r"|from|fromEntries|replace|replaceAll|split|set(?:Timeout|Interval|Immediate)|requestAnimationFrame|nextTick"
    r"|queueMicrotask|require|define\w*|import|describe|it|test|suite|on|once|off|add\w*Listener|subscribe|connect"
    r"|createServer|get|post|put|delete|use|use[A-Z]\w*|run|tap|all|race|mock|spyOn|sum|min|max|count|sumBy|groupBy"
    r"|keyBy|pickBy|omitBy|mapValues|sortBy|uniqBy|partition|zipWith|times|range|apply|call|defineProperty)"
)
_UNWRAPPED = 4  # calls around a function
_SUBSCRIPT = re.compile(r"""\[\s*(?:(['"])([\w$]+)\1|([\w$.]+))\s*\]""")
_GLOBAL = re.compile(r"^(?:(?:this|self|window|globalThis|module|exports)\.)+")
_PROTOTYPE = re.compile(r"\.prototype(?=\.|$)")
_PATH = re.compile(r"[\w$#.]+$")


class Miner(CommentMiner):
    """Finds the functions of JavaScript files; see `CommentMiner`.

    A function is a declaration, a method, or what a variable, property or field is given (`const f = () => 1`,
    `A.prototype.f = function () {}`, `{ f: function () {} }`), which then begins its code. `A.prototype.f` is named
    `A.f`, and `module.exports.f` is named `f`. A function that is given to a call counts if what the call returns is
    given to a name (`const A = memo(function () {})`), unless the call is one that returns no function (`map`);
    the call is part of the code. What JSDoc calls a `@constructor` or `@class` is a constructor.
    """

    grammars: ClassVar[Sequence[Callable[[], object]]] = (tree_sitter_javascript.language,)
    query = f"""
        (function_declaration) @function (generator_function_declaration) @function (method_definition) @function
        (variable_declarator value: {FUNCTION}) @function (assignment_expression right: {FUNCTION}) @function
        (pair value: {FUNCTION}) @function (field_definition value: {FUNCTION}) @function
        (export_statement value: {FUNCTION} @function)
        (variable_declarator value: {WRAPPED}) @wrapped (assignment_expression right: {WRAPPED}) @wrapped
        (pair value: {WRAPPED}) @wrapped (field_definition value: {WRAPPED}) @wrapped
        (export_statement value: (call_expression) @wrapped)
        (class_declaration) @container (variable_declarator value: {OBJECT}) @container
        (assignment_expression right: {OBJECT}) @container (pair value: {OBJECT}) @container
        (comment) @comment (template_string) @string (string) @string
    """
    lead = re.compile(
        rb"\s*(?:export\s+(?:default\s+)?)?(?P<head>(?:(?:const|let|var)\s+)?(?:[\w$][\w$.]*\s*=\s*)*(?<=[\s=]))?"
    )
    special = re.compile(r"constructor|toString|toLocaleString|valueOf")
    special_doc = re.compile(r"(?m)^[ \t/*]*@(?:constructor|class)\b(?!\s+\w+\s*\n\s*\*?\s*@memberof)")
    test_folder = re.compile(r"__(?:tests?|mocks|fixtures|specs?)__|tests?|specs?|e2e|cypress|fixtures")
    test_file = re.compile(r"(?:.*[._-])?(?:test|spec|bench)s?\.[cm]?[jt]sx?")
    manifests = ("package.json",)
    source_folders = frozenset({"src", "lib", "packages"})

    def has_manifest(self, folder: Path) -> bool:
        """Look for a `package.json` with a name; those without one only set options of a build's output."""
        try:
            manifest = json.loads((folder / "package.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(manifest, dict) and "name" in manifest

    def name_of(self, data: bytes, node: Node) -> str:
        """Name a function, class or object by what it is assigned to."""
        field, value = _FIELDS.get(node.type, ("name", ""))
        given = node.child_by_field_name(value) if value else None
        target = node.child_by_field_name(field)
        if target is None and node.type == "call_expression":
            inner = unwrap(data, node)
            target = None if inner is None else inner.child_by_field_name("name")
        if target is None:
            return "" if node.type.endswith(("declaration", "module")) else "default"
        text = text_of(data, target) if target.end_byte - target.start_byte < 200 else ""
        if text in ("module.exports", "exports"):
            inner = None if given is None else unwrap(data, given)
            own = None if given is None else (inner or given).child_by_field_name("name")
            if own is not None:
                return text_of(data, own)
            return "exports" if inner is not None else ""
        if target.type == "computed_property_name" and target.named_child_count:
            target = target.named_child(0) or target
            text = text_of(data, target) if text else ""
        if target.type == "string" and text:
            return text[1:-1]
        index = target.child_by_field_name("index") if target.type == "subscript_expression" and text else None
        owner = target.child_by_field_name("object")
        key = ""
        if index is not None and owner is not None and index.type == "string":
            text, key = text_of(data, owner), text_of(data, index)[1:-1]
        text = _SUBSCRIPT.sub(lambda match: f".{match[2] or match[3]}", text.strip("'\"`"))
        # A dot is put behind, so that `exports['add']` is as global as `exports.add`.
        text = _PROTOTYPE.sub("", _GLOBAL.sub("", f"{text}." if key else text)).rstrip(".")
        path = _PATH.search(text)
        return f"{'' if path is None else path[0]}.{key}".strip(".")

    def body_of(self, data: bytes, node: Node) -> Node | None:
        """Find the body of a function, of the one that is assigned, or of the one that is given to a call."""
        value = node.child_by_field_name(_FIELDS[node.type][1]) if node.type in _FIELDS else node
        inner = None if value is None else unwrap(data, value)
        return None if inner is None else inner.child_by_field_name("body")


def unwrap(data: bytes, value: Node) -> Node | None:
    """Find the function that a value is, or that is given to the call whose result the value is; None if none is."""
    for _ in range(_UNWRAPPED):
        inner: Node | None = None
        if value.type in _SAME:
            inner = value.named_child(0) if value.named_child_count else None
        elif value.type == "call_expression":
            inner = _wrapped(data, value)
        else:
            return value if value.child_by_field_name("body") is not None and value.type in _FUNCTIONS else None
        if inner is None:
            return None
        value = inner
    return value if value.type in _FUNCTIONS else None


def _wrapped(data: bytes, call: Node) -> Node | None:
    """The function, or the call around one, among the arguments of a call that may return a function."""
    callee, arguments = call.child_by_field_name("function"), call.child_by_field_name("arguments")
    if callee is not None and callee.type == "member_expression":
        owner = callee.child_by_field_name("object")
        if owner is None or owner.type not in ("identifier", "this", "member_expression"):
            return None
        callee = callee.child_by_field_name("property")
    if callee is None or arguments is None or not callee.type.endswith("identifier"):
        return None
    if _NO_WRAPPER.fullmatch(text_of(data, callee)) is not None:
        return None
    count = arguments.named_child_count
    given = [arguments.named_child(index) for index in ((0, count - 1) if count else ())]
    return next((node for node in given if node and (node.type in _FUNCTIONS or node.type == "call_expression")), None)
