"""Functions and their leading comments of Go files, by tree-sitter."""

from __future__ import annotations

import re

import tree_sitter_go
from tree_sitter import Node

from st_softinfonce.data.english import IMPERATIVES
from st_softinfonce.data.languages.comments import CommentMiner, text_of

_RECEIVER = re.compile(r"[*(\s](\w+)\s*(?:\[[^\]]*\])?\s*\)$")
_DEPRECATED = re.compile(r"^Deprecated:.*(?:\n(?!\s*$).*)*", re.MULTILINE)
_BEGIN = re.compile(
    r"(?:(?:[Ff]unc(?:tion)?|[Mm]ethod)\s+)?[`\[*]*(?:\w+\.|\(\w*\s*\*?\w+\)[.\s]?)?"
    r"(?P<name>\w+)(?![/|]\w)(?:\([^()\n]*\)){0,2}[`\]]*(?:'s\b)?(?:\s+(?:godoc\b|\(\*?\w+\)))?[\s:,\u2013\u2014-]*"
)
_DOC_LINK = re.compile(r"(?<![\w\]\[])\[\*?([A-Za-z_]\w*(?:\.\w+){0,2})\](?![\w\[({])")
_MENTION = re.compile(
    r"(?<![\w.\"'`/])(?<!\b[Tt]he )(?<!\b[Aa] )(?<!\bof )(?<!\bas )(?<!:= )(\w+)\b(?:\(\))?(?![(\"'`/]|\.\w)"
)
_PLAIN_WORD = re.compile(r"[A-Za-z][a-z]+|[A-Z]{2,4}")
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
# After one of them the name is the verb: `// SelectRows within a transaction.`
_AFTER_VERB = re.compile(r"(?:using|within|with|without|in|into|on|from|to|by|for|as)\b")
_OBJECT = re.compile(r"\s+(?:the|an?|its|all|each|every|any|this|that|these|those|whether|if|it|them|one|no|out|up)\b")
_VERB = re.compile(r"(?!\w*ss\b)\w+s\b|(?:will|can|may|must|should|do|and|or|was|creates?)\b")

_STEMS = frozenset(verb.removesuffix("e") for verb in IMPERATIVES)


class Miner(CommentMiner):
    """Finds the functions of Go files; see `CommentMiner`.

    Go's documentation begins with the function's name by convention, which would make search a comparison of strings:
    the name is taken away, and what follows begins with a capital (`// Foo returns x` becomes `Returns x`). It stays
    where it is an English word that no verb follows (`// Close the file`), and becomes its words where it is the verb
    (`// SelectRows within a transaction`). Further on, a name that is no English word (`parseInt`, `read_all`) becomes
    `it`, and links (`[io.EOF]`) lose their signs. Capitals make no difference. The code keeps its name. Paragraphs
    that begin with `Deprecated:` are none.
    """

    grammars = (tree_sitter_go.language,)
    query = """
        (function_declaration) @function (method_declaration) @function
        (comment) @comment (raw_string_literal) @string
    """
    line_sign = "//"
    has_doc_blocks = False
    special = re.compile(r"String|GoString|Error")
    test_name = re.compile(r"(?:Test|Benchmark|Fuzz)(?![a-z]).*")
    test_folder = re.compile(r"tests?|testdata|e2e")
    test_file = re.compile(r".*_test\.go")
    manifests = ("go.mod",)
    pragma = re.compile(
        r"//(?:[a-z0-9]+:\S|export |line )|//\s*(?:nolint\b|#nosec\b|\+[a-z][\w:-]*)"
        r"|//\s*(?:lint|exhaustive|gosec|revive):"
    )
    source_folders = frozenset({"src"})

    def name_of(self, data: bytes, node: Node) -> str:
        """Name a function, and its receiver's type before it."""
        name = super().name_of(data, node)
        receiver = node.child_by_field_name("receiver")
        kind = None if receiver is None else _RECEIVER.search(text_of(data, receiver))
        return name if kind is None else f"{kind[1]}.{name}"

    def is_special(self, node: Node, name: str) -> bool:
        """Whether a function is `init`, or a method without parameters that an interface of the language asks for."""
        if node.type == "function_declaration":
            return name == "init"
        parameters = node.child_by_field_name("parameters")
        return super().is_special(node, name) and (parameters is None or not parameters.named_child_count)

    def clean_doc(self, doc: str, name: str) -> str:
        """Take away the function's name, and what is said on deprecation."""
        doc = _DEPRECATED.sub("", doc).strip()
        begin = _BEGIN.match(doc)
        word = _PLAIN_WORD.fullmatch(name) is not None
        if begin is not None and begin["name"].lower() == name.lower():
            is_alone = begin[0].strip() == begin["name"]
            if not word or not is_alone or _has_verb(name.lower(), doc, begin.end()):
                rest = doc[begin.end() :]
                if _AFTER_VERB.match(rest) and is_alone:
                    rest = f"{' '.join(_WORDS.findall(name)).lower()} {rest}"
                doc = rest[:1].upper() + rest[1:]
        if not word and name.lower() in doc.lower():
            doc = _MENTION.sub(lambda mention: "it" if mention[1].lower() == name.lower() else mention[0], doc)
        return _DOC_LINK.sub(r"\1", doc)


def _has_verb(name: str, doc: str, start: int) -> bool:
    """Whether a verb follows a name; one that is a verb itself may have its object there (`Reset values`)."""
    following = _VERB.match(doc, start)
    if following is None or name not in IMPERATIVES:
        return following is not None
    word = following[0].lower()
    is_verb = not word.endswith("s") or word.removesuffix("s").removesuffix("e") in _STEMS or word[:3] == name[:3]
    return is_verb or _OBJECT.match(doc, following.end()) is not None
