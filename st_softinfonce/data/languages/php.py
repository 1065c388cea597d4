"""Functions and PHPDoc of PHP files, by tree-sitter."""

from __future__ import annotations

import re

import tree_sitter_php

from st_softinfonce.data.languages.comments import CommentMiner

_ENCODING = re.compile(rb"<\?php\s+declare\s*\(\s*encoding\s*=\s*['\"]([\w.-]+)['\"]", re.IGNORECASE)


class Miner(CommentMiner):
    """Finds the functions and methods of PHP files, HTML around them or not; see `CommentMiner`."""

    grammars = (tree_sitter_php.language_php,)
    query = """
        (function_definition) @function (method_declaration) @function
        (class_declaration) @container (interface_declaration) @container (trait_declaration) @container
        (enum_declaration) @container
        (comment) @comment (string) @string (encapsed_string) @string (heredoc) @string (nowdoc) @string
        (text_interpolation) @string
    """
    is_type_signed = False
    special = re.compile(r"__\w+")
    test_folder = re.compile(r"[Tt]ests?|[Ff]ixtures")
    test_file = re.compile(r".*Test(?:Case)?\.php")
    manifests = ("composer.json",)

    def decode(self, data: bytes) -> str:
        """Decode as the file declares, as UTF-8 if it does not."""
        declared = _ENCODING.search(data[:1000])
        return super().decode(data) if declared is None else data.decode(declared[1].decode())
