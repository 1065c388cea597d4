"""The programming languages that can be mined; a grammar is imported when its language is first asked for."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import NamedTuple, cast

from tree_sitter import Node, Parser

from st_softinfonce.data.languages.base import LanguageMiner, load_grammar

# A new language is a line here and in `SURROUNDINGS`, and a module that holds a `Miner`; see CONTRIBUTING.md.
_MODULES = {
    "python": ("st_softinfonce.data.languages.python", (".py",)),
    "javascript": ("st_softinfonce.data.languages.javascript", (".js", ".mjs", ".cjs", ".jsx")),
    "typescript": ("st_softinfonce.data.languages.typescript", (".ts", ".tsx", ".mts", ".cts")),
    "go": ("st_softinfonce.data.languages.go", (".go",)),
    "java": ("st_softinfonce.data.languages.java", (".java",)),
    "php": ("st_softinfonce.data.languages.php", (".php",)),
    "ruby": ("st_softinfonce.data.languages.ruby", (".rb", ".rake")),
}

EXTENSIONS = {extension: language for language, (_, extensions) in _MODULES.items() for extension in extensions}

# A method cannot stand alone in every language: what a function parses in, to be tried in turn.
SURROUNDINGS = {
    "python": (("", ""),),
    "javascript": (("", ""), ("(", ")"), ("({", "})"), ("class C {", "}")),
    "typescript": (("", ""), ("(", ")"), ("({", "})"), ("class C {", "}")),
    "go": (("", ""),),
    "java": (("class C {", "}"), ("", "")),
    "php": (("<?php ", ""), ("<?php class C {", "}")),
    "ruby": (("", ""),),
}


def load_miners(languages: str | Iterable[str] | None = None) -> dict[str, LanguageMiner]:
    """Load the miners of some languages.

    Args:
        languages: One name, or several; None for all. Order and repetition do not matter.

    Returns:
        One miner a language, in the order of the table above.

    Raises:
        ValueError: If there is no language, or one is not known.
    """
    if languages is None:
        languages = _MODULES
    names = {languages} if isinstance(languages, str) else set(languages)
    unknown = sorted(name for name in names if name not in _MODULES)
    if unknown or not names:
        got = ", ".join(map(repr, unknown)) or "none"
        raise ValueError(f"languages must name some of {sorted(_MODULES)}, got {got}: choose from these.")
    # Parsers cannot be shared between threads, so each call gets its own.
    return {
        name: cast(LanguageMiner, import_module(module).Miner())
        for name, (module, _) in _MODULES.items()
        if name in names
    }


class ParsedFunction(NamedTuple):
    """A function that was parsed: the root of its tree, the bytes of it, and where in these the function lies."""

    root: Node
    data: bytes
    start: int
    end: int


def parse_function(code: str, language: str) -> ParsedFunction | None:
    """Parse a function that stands alone, such as a method without its class, or any part of a program that parses.

    Args:
        code: The function.
        language: One of python, javascript, typescript, go, java, php and ruby.

    Returns:
        What was parsed, with what had to be put around it; None where the code does not parse.

    Raises:
        ValueError: The language is not known.

    Example:
        >>> parsed = parse_function("f($x) { return $x; }", "php")
        >>> parsed is None, parse_function("function f($x) { return $x; }", "php").root.type
        (True, 'program')
    """
    if language not in SURROUNDINGS:
        raise ValueError(f"language must be one of {sorted(SURROUNDINGS)}, got {language!r}.")
    grammar = {"php": "language_php", "typescript": "language_typescript"}.get(language, "language")
    # One parser a call, as they cannot be shared between threads.
    parser = Parser(load_grammar(getattr(import_module(f"tree_sitter_{language}"), grammar)))
    for before, after in SURROUNDINGS[language]:
        data = f"{before}{code}\n{after}".encode(errors="replace")
        root = parser.parse(data).root_node
        if not root.has_error:
            return ParsedFunction(root, data, len(before), len(data) - len(after))
    return None
