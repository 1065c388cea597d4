"""Functions and TSDoc of TypeScript files, by tree-sitter."""

from __future__ import annotations

import re
from collections.abc import Iterable

import tree_sitter_typescript

from st_softinfonce.data.languages import javascript
from st_softinfonce.data.languages.javascript import FUNCTION, OBJECT, WRAPPED

# Alternatives within alternatives are not all found.
_VALUE = f"[{FUNCTION.strip('[]')} {WRAPPED.strip('[]')} (as_expression) (satisfies_expression)]"
_ELEMENT = re.compile(rb"</|/>")


class Miner(javascript.Miner):
    """Finds the functions of TypeScript files, TSX among them; see `javascript.Miner` and `CommentMiner`.

    What has no body (interfaces, abstract methods, declaration files) is not counted. Of overloads, the one with the
    body counts; the documentation of those before it is its own if it has no other.
    """

    grammars = (tree_sitter_typescript.language_typescript, tree_sitter_typescript.language_tsx)
    query = f"""
        (function_declaration) @function (generator_function_declaration) @function (method_definition) @function
        (function_signature) @signature (method_signature) @signature
        (variable_declarator value: {_VALUE}) @wrapped (assignment_expression right: {_VALUE}) @wrapped
        (pair value: {_VALUE}) @wrapped (public_field_definition value: {_VALUE}) @wrapped
        (export_statement value: {FUNCTION} @function) (export_statement value: (call_expression) @wrapped)
        (class_declaration) @container (abstract_class_declaration) @container
        (internal_module) @container (module) @container
        (variable_declarator value: {OBJECT}) @container
        (variable_declarator value: (as_expression {OBJECT})) @container
        (variable_declarator value: (satisfies_expression {OBJECT})) @container
        (assignment_expression right: {OBJECT}) @container (pair value: {OBJECT}) @container
        (comment) @comment (template_string) @string (string) @string
    """
    lead = re.compile(
        rb"\s*(?:export\s+(?:default\s+)?)?(?:declare\s+)?"
        rb"(?P<head>(?:@[\w$.]+(?:\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))?\s*)+"
        rb"|(?:(?:const|let|var)\s+)?(?:[\w$][\w$.]*\s*=\s*)*(?<=[\s=]))?"
    )

    def order(self, data: bytes) -> Iterable[int]:
        """Try the grammar of TSX first on what seems to hold elements."""
        return (1, 0) if _ELEMENT.search(data) else (0, 1)
