"""Functions and JSDoc of JavaScript files, by tree-sitter."""

from __future__ import annotations

import json
import re
from pathlib import Path

import tree_sitter_javascript
from tree_sitter import Node

from st_softinfonce.data.languages.comments import CommentMiner, text_of

_FUNCTION = "[(function_expression) (arrow_function) (generator_function)]"
_OBJECT = (
    "[(object) (class) (call_expression arguments: (arguments (object)))"
    " (new_expression arguments: (arguments (object)))]"
)
_FIELDS = {
    "variable_declarator": ("name", "value"),
    "assignment_expression": ("left", "right"),
    "pair": ("key", "value"),
    "field_definition": ("property", "value"),
}
_SUBSCRIPT = re.compile(r"""\[\s*(?:(['"])([\w$]+)\1|([\w$.]+))\s*\]""")
_GLOBAL = re.compile(r"^(?:(?:this|self|window|globalThis|module|exports)\.)+")
_PROTOTYPE = re.compile(r"\.prototype(?=\.|$)")
_PATH = re.compile(r"[\w$#.]+$")


class Miner(CommentMiner):
    """Finds the functions of JavaScript files; see `CommentMiner`.

    A function is a declaration, a method, or what a variable, property or field is given (`const f = () => 1`,
    `A.prototype.f = function () {}`, `{ f: function () {} }`), which then begins its code. `A.prototype.f` is named
    `A.f`, and `module.exports.f` is named `f`. What JSDoc calls a `@constructor` or `@class` is a constructor.
    """

    grammar = tree_sitter_javascript.language
    query = f"""
        (function_declaration) @function (generator_function_declaration) @function (method_definition) @function
        (variable_declarator value: {_FUNCTION}) @function (assignment_expression right: {_FUNCTION}) @function
        (pair value: {_FUNCTION}) @function (field_definition value: {_FUNCTION}) @function
        (export_statement value: {_FUNCTION} @function)
        (class_declaration) @container (variable_declarator value: {_OBJECT}) @container
        (assignment_expression right: {_OBJECT}) @container (pair value: {_OBJECT}) @container
        (comment) @comment (template_string) @string (string) @string
    """
    lead = re.compile(
        rb"\s*(?:export\s+(?:default\s+)?)?(?P<head>(?:(?:const|let|var)\s+)?(?:[\w$][\w$.]*\s*=\s*)*(?<=[\s=]))?"
    )
    special = re.compile(r"constructor|toString|toLocaleString|valueOf")
    special_doc = re.compile(r"@(?:constructor|class)\b(?!\s+\w+\s*\n\s*\*?\s*@memberof)")
    test_folder = re.compile(r"__(?:tests?|mocks|fixtures|specs?)__|tests?|specs?|e2e|cypress|fixtures")
    test_file = re.compile(r"(?:.*[._-])?(?:test|spec|bench)s?\.[cm]?jsx?")
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
        target = node.child_by_field_name(field)
        if target is None:
            return "" if node.type.endswith("declaration") else "default"
        text = text_of(data, target) if target.end_byte - target.start_byte < 200 else ""
        if text in ("module.exports", "exports"):
            given = node.child_by_field_name(value)
            own = None if given is None else given.child_by_field_name("name")
            if own is not None:
                return text_of(data, own)
            return "exports" if given is not None and given.type.endswith(("function", "function_expression")) else ""
        text = _SUBSCRIPT.sub(lambda match: f".{match[2] or match[3]}", text.strip("'\"`"))
        path = _PATH.search(_PROTOTYPE.sub("", _GLOBAL.sub("", text)))
        return "" if path is None else path[0].strip(".")

    def body_of(self, node: Node) -> Node | None:
        """Find the body of a function, or of the one that is assigned."""
        value = node.child_by_field_name(_FIELDS[node.type][1]) if node.type in _FIELDS else node
        return None if value is None else value.child_by_field_name("body")
