"""Functions and Javadoc of Java files, by tree-sitter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import tree_sitter_java
from tree_sitter import Node

from st_softinfonce.data.languages.comments import CommentMiner

_TEST = re.compile(
    rb"@(?:\w*\.)*(?:(?:Parameterized|Repeated)?Test(?:Factory)?|(?:Before|After)(?:Each|All|Class)?)\b"
)
_REFERENCE = re.compile(
    r"(?<!\w)\[([^\[\]\n]+)\]\[[^\[\]\n]+(?:\[\])?\]|(?<![\w\[])\[(#?[A-Za-z_][\w.#]*(?:\([^()\n]*\))?)\](?![\w\[(])"
)


class Miner(CommentMiner):
    """Finds the methods of Java files, with their annotations; see `CommentMiner`.

    Both kinds of Javadoc are documentation: `/** */`, and `///` with Markdown, where `[text][List]` is a link.
    """

    grammars = (tree_sitter_java.language,)
    query = """
        (method_declaration) @function (constructor_declaration) @function
        (compact_constructor_declaration) @function
        (class_declaration) @container (interface_declaration) @container (enum_declaration) @container
        (record_declaration) @container (annotation_type_declaration) @container
        (block_comment) @comment (line_comment) @comment (string_literal) @string
    """
    line_sign = "///"
    special = re.compile(r"toString|equals|hashCode|clone|finalize|notify|notifyAll")
    test_folder = re.compile(r"(?:android|integration|unit|functional)?-?[Tt]ests?|testFixtures|jtreg")
    test_file = re.compile(r"Test[A-Z].*\.java|.*(?:Tests?|TestCase|IT)\.java")
    manifests = ("pom.xml", "build.gradle", "build.gradle.kts", "module-info.java")
    source_folders = frozenset({"src", "main", "java"})

    def is_test(self, parts: Sequence[str]) -> bool:
        """Whether a file is a test, also by Maven's folder for them, `src/it`."""
        return super().is_test(parts) or ("src", "it") in pairwise(parts)

    def clean_doc(self, doc: str, name: str) -> str:
        """Replace the links of Markdown by their text."""
        return _REFERENCE.sub(lambda link: link[1] or link[2].replace("#", ".").lstrip("."), doc)

    def is_special(self, node: Node, name: str) -> bool:
        """Whether a method is a constructor or one of `Object`'s."""
        return node.type != "method_declaration" or super().is_special(node, name)

    def is_test_function(self, data: bytes, node: Node, name: str) -> bool:
        """Whether a method is a test by its name or annotation."""
        modifiers = node.named_child(0) if super().is_test_function(data, node, name) is False else None
        if modifiers is None:
            return True
        return _TEST.search(data, modifiers.start_byte, modifiers.end_byte) is not None
