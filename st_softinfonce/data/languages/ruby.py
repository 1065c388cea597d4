"""Methods and their leading comments of Ruby files, by tree-sitter."""

from __future__ import annotations

import codecs
import re

import tree_sitter_ruby
from tree_sitter import Node

from st_softinfonce.data.languages.comments import CommentMiner

_MAGIC = re.compile(rb"\A(?:\xef\xbb\xbf)?(?:#!.*\n)?#.*?coding[:=]\s*([\w.-]+)")
_HIDDEN = re.compile(r"^--[ \t]*$.*?(?:^\+\+[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_CALLS = re.compile(r"^[ \t]*:?call-seq:.*(?:\n(?!\s*$).*)*", re.MULTILINE)
_DIRECTIVE = re.compile(r"^[ \t]*(?::[a-z-]+:(?!`).*|=+ .*)$", re.MULTILINE)
_CALL = re.compile(r"\A(?:[\w.:]+[?!]?[ \t]*(?:[({].*)?(?:->|=>|→).*\n)+\s*(?=\S)")
_INDENTED = re.compile(r"^[ \t]+\S.*(?:\n[ \t]+\S.*)*$", re.MULTILINE)
_RESULT = re.compile(r"#[ \t]*=>")
_MONOSPACE = re.compile(r"(?<![\w+])\+([^\s+]+)\+(?![\w+])")
_LABEL = re.compile(r"(?:\{([^{}]+)\}|(?<=\s)(\w+))\[(?:https?:|rdoc-ref:|link:|@)[^\]\s]*\]")
_REFERENCE = re.compile(r"(?<![\w$#%{])\{((?:file:|include:file:)?(?:#|[A-Z.:])[\w:.#?!=/-]*)(?:[ \t]+([^{}]+))?\}")
_ESCAPE = re.compile(r"\\(?=[A-Z_#:])")


class Miner(CommentMiner):
    """Finds the methods of Ruby files, documented by RDoc or YARD; see `CommentMiner`.

    What RDoc hides (`--`), its directives (`:nodoc:`), headings, call sequences and examples before the text are left
    out; `+code+` and references (`{#add}`, `{Order#add its sum}`) lose their signs.
    """

    grammars = (tree_sitter_ruby.language,)
    query = """
        (method) @function (singleton_method) @function
        (class) @container (module) @container
        (comment) @comment (string) @string (heredoc_body) @string (subshell) @string (regex) @string
    """
    line_sign = "#"
    has_doc_blocks = False
    opening = b"=begin"
    closing = b"\n=begin\n=end\n"
    lead = re.compile(
        rb"\s*(?:(?:T::Sig::WithoutRuntime\.)?sig\b[ \t]*(?:\([^()\n]*\)[ \t]*)?"
        rb"(?:\{(?:[^{}]|\{[^{}]*\})*\}|do\b(?:(?!\bend\b)[^#])*\bend\b)\s*|Contract\b[^\n]*\n\s*)*"
        rb"(?:[a-z]\w*[ \t]+){0,2}"
    )
    special = re.compile(
        r"initialize(?:_copy|_dup|_clone)?|to_s|to_str|to_text|inspect|display|dup|clone|hash|eql\?|equal\?|between\?"
        r"|[=!]=|===|=~|<=>|[<>]=?|method_missing|respond_to(?:_missing)?\?"
    )
    test_folder = re.compile(r"tests?|specs?|features")
    test_file = re.compile(r"(?:test_.*|.*_(?:test|spec)|(?:test|spec)_helper)\.rb")
    manifests = ("*.gemspec",)
    pragma = re.compile(
        r"#+\s*(?:!|rubocop:|standard:|steep:|typed:|-\*-|(?:en)?coding[:=]|frozen_string_literal:|warn_indent:"
        r"|shareable_constant_value:|sorbet:|reek:|simplecov:|:nocov:|:\s|\||brakeman:|sord\b|@rbs\b|noinspection\b|type:\s)"
    )
    tag = re.compile(
        r"^[ \t]*@(?:!\w+|abstract|api|attr|attr_reader|attr_writer|author|deprecated|example|note|option|overload|"
        r"param|private|raise|return|returns|see|since|throws|todo|version|yield|yieldparam|yieldreturn)\b",
        re.MULTILINE,
    )
    source_folders = frozenset({"lib", "gems"})

    def decode(self, data: bytes) -> str:
        """Decode as the magic comment says, as UTF-8 without one."""
        magic = _MAGIC.match(data)
        name = "utf-8" if magic is None else re.sub(r"-(?:unix|dos|mac|emacs)$", "", magic[1].decode().lower())
        if name in ("ascii-8bit", "binary"):
            # Bytes to Ruby, which nearly always are UTF-8.
            name = "utf-8"
        return super().decode(data) if codecs.lookup(name).name in ("utf-8", "ascii") else data.decode(name)

    def name_of(self, data: bytes, node: Node) -> str:
        """Name a method or module, with dots between what `::` separates."""
        return super().name_of(data, node).replace("::", ".")

    def uncomment(self, comment: str) -> str:
        """Take `=begin` and `=end` off a block comment."""
        return comment.partition("\n")[2].rpartition("=end")[0]

    def clean_doc(self, doc: str, name: str) -> str:
        """Do what RDoc does with its own signs."""
        doc = _DIRECTIVE.sub("", _CALLS.sub("", _HIDDEN.sub("", doc))).lstrip("\n")
        doc = _CALL.sub("", _after_example(doc))
        doc = _INDENTED.sub(lambda lines: "" if _RESULT.search(lines[0]) else lines[0], doc)
        doc = _LABEL.sub(lambda label: label[1] or label[2], _MONOSPACE.sub(r"\1", doc))
        doc = _REFERENCE.sub(lambda link: link[2] or link[1].removeprefix("file:").lstrip("#:."), doc)
        return _ESCAPE.sub("", doc)


def _after_example(doc: str) -> str:
    """What follows the indented paragraphs that a text begins with, if anything does."""
    lines = doc.split("\n")
    first = next((index for index, line in enumerate(lines) if line.strip() and not line.startswith("  ")), 0)
    return "\n".join(lines[first:] if first and not lines[first - 1].strip() else lines).strip()
