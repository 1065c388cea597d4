"""The text of a documentation comment: without rulers, tags, inline tags and everyday HTML."""

from __future__ import annotations

import html
import re

from st_softinfonce.data.docstrings import HTML_ELEMENT

TAG = re.compile(r"^[ \t]*@[A-Za-z]", re.MULTILINE)

_OTHER_KIND = re.compile(
    r"^[ \t]*@(?:file(?:overview)?|overview|typedef|callback|packageDocumentation)\b", re.MULTILINE | re.IGNORECASE
)
_LICENSE_TAG = re.compile(r"^[ \t]*@(?:licen[sc]e|preserve|copyright)\b", re.MULTILINE | re.IGNORECASE)
_FUNCTION_TAG = re.compile(r"^[ \t]*@(?:param|arg|returns?|throws|exception)\b", re.MULTILINE | re.IGNORECASE)
_LICENSE = re.compile(
    r"\bSPDX-|(?<!@)\bcopyright (?:\(c\)|©|\d)|\blicensed under\b|\ball rights reserved\b", re.IGNORECASE
)
_RULER_SIGNS = "-=*#/~_+"
_CODE_LINE = re.compile(
    r".*[;{}]$|[\w.$@]+\(.*\)$|(?:end|else|\S+ :?= .*|[\w-]+ ?::=.*)$"
    r"|(?:def|func|function|return|if|for|var|let|const) .*[({=].*"
)
_PROPERTY = re.compile(r"\s*[\w-]+(?:\.[\w-]+)+=\S*\n")
_STATEMENT = re.compile(
    r"(?:public|private|protected|static|final|abstract|async|await|func|function|def|class|module|struct|type|enum"
    r"|if|elsif|unless|while|until|for|foreach|switch|case|return|throw|raise|yield|var|let|const|import|export"
    r"|new|end|do|go|defer|else|try|catch)\b"
)
_PROSE = re.compile(r"[A-Za-z][\w'-]*(?: [A-Za-z][\w'-]*){2,}")
_FUNCTION_WORD = re.compile(
    r"(?<!\S)(?:the|an?|of|to|is|are|in|and|or|with|that|this|given|from|by|it|its|as|be|not)(?!\S)"
)
_DESCRIPTION = re.compile(r"^[ \t]*@(?:\w+_)?(?:desc(?:ription)?|summary|brief)\b[ \t]*", re.MULTILINE | re.IGNORECASE)
# Lines of tags that begin a text are tags, whatever they are called.
_TAGS = re.compile(r"\s*@\w+(?: [^\n]*)?\n\s*@\w+\b")
_RETURNED = re.compile(r"^[ \t]*@returns?[ \t]+(?=\S)", re.MULTILINE)
_SIGNED_TYPE = re.compile(r"(?:\{(?!@)(?:[^{}]|\{[^{}]*\})*\}|\[[^\[\]]*\](?!\())[ \t]*(?:-[ \t]+)?")
_PLAIN_TYPE = re.compile(
    r"(?:[^\s<({]|<[^<>\n]*(?:<[^<>\n]*>[^<>\n]*)*>|\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}|\([^()\n]*\))+"
    r"(?:\s*\|\s*\S+)*\s*(?:-[ \t]+)?"
)
_DETERMINER = re.compile(r"(?:The|An?|All|Any|Each|Every|True|False|Whether|This|That|Its|Either|Number|List)\b")
_INLINE_TAG = re.compile(r"\{@(\w+)((?:[^{}]|\{[^{}]*\})*)\}")
_OPEN_TAG = re.compile(r"\{@(?:link|linkplain|linkcode|code|literal)\s+")
_SNIPPET = re.compile(r"\{@snippet\b")
_LINK = re.compile(r"\[([^\]\n]{1,200})\]\{@link[^{}]*\}")
_TARGET = re.compile(r"((?:[^\s|(<]|<[^<>]*(?:<[^<>]*>[^<>]*)*>)+(?:\([^)]*\))?)\s*\|?\s*(.*)")
_HTML_BLOCK = r"</?(?:p|ul|ol|li|dl|dt|dd|pre|table|tr|h[1-6]|blockquote)\b[^<>]*>"
_HTML_BREAK = re.compile(
    rf"(?:^|(?<=[.:;!?])|(?<=[.:;!?]\s))[ \t]*{_HTML_BLOCK}|{_HTML_BLOCK}[ \t]*$", re.MULTILINE | re.IGNORECASE
)
_HTML_CODE = re.compile(r"<(code|tt|kbd|samp)(?:\s[^<>]*)?>((?:(?!<\1\b).)*?)</\1\s*>", re.DOTALL | re.IGNORECASE)
_HTML_INLINE = re.compile(
    r"<(i|b|em|strong|var|sub|sup|small|u|a|span|cite)(?:\s[^<>]*)?>((?:(?!<\1\b).)*?)</\1\s*>",
    re.DOTALL | re.IGNORECASE,
)
_HTML_LINE = re.compile(r"[ \t]*<br\s*/?>", re.IGNORECASE)
_BACKTICKS = re.compile(r"`[^`\n]+`")
# Private signs for what code says literally, so that nothing takes it for markup.
_HIDDEN = str.maketrans("<>&{}@", "\x0e\x0f\x10\x11\x12\x13")
_SHOWN = str.maketrans("\x0e\x0f\x10\x11\x12\x13", "<>&{}@")


def is_of_another_kind(doc: str, is_first: bool) -> bool:
    """Find out whether a comment is on something else than a function: a licence, a file, a type.

    Tags count where they begin a line. In the first comment of a file a licence counts wherever it stands; in others
    in the first paragraph only, and a licence's tag only where no tag tells of parameters or results.

    Args:
        doc: The comment without its signs.
        is_first: Whether it is the first comment of its file.

    Returns:
        Whether it is.
    """
    if _OTHER_KIND.search(doc) is not None:
        return True
    if _FUNCTION_TAG.search(doc) is None and _LICENSE_TAG.search(doc if is_first else doc.partition("\n")[0]):
        return True
    return _LICENSE.search(doc if is_first else doc.strip().partition("\n\n")[0]) is not None


def is_boxed(doc: str) -> bool:
    """Find out whether rulers frame a text, as they do a section's title."""
    lines = doc.split("\n")
    return len(lines) > 2 and _is_ruler(lines[0]) and _is_ruler(lines[-1])


def is_code(doc: str) -> bool:
    """Find out whether most lines of the first paragraph are code, or the first sets a property (`error.name=...`)."""
    if _PROPERTY.match(doc) is not None:
        return True
    lines = [line.strip() for line in doc.strip().partition("\n\n")[0].split("\n")]
    return 2 * sum(_CODE_LINE.fullmatch(line) is not None and not _is_prose(line) for line in lines) > len(lines)


def without_rulers(doc: str) -> str:
    """Empty the lines that are rulers, whether or not a title is set into them."""
    return "\n".join("" if _is_ruler(line) or _is_title(line.strip()) else line for line in doc.split("\n"))


def before_tags(doc: str, tag: re.Pattern[str], is_type_signed: bool = True) -> str:
    """Take what stands before the first tag.

    Args:
        doc: The comment without its signs.
        tag: What begins a tag.
        is_type_signed: Whether `@return` writes a type in brackets, if it writes one; if not, its first word is one.

    Returns:
        The text; if there is none, what the tag for a description says, or else what is returned, as a sentence.
    """
    if _TAGS.match(doc) is not None:
        tag = TAG
    first = tag.search(doc)
    text = doc if first is None else doc[: first.start()]
    if text.strip():
        return text
    description = _DESCRIPTION.search(doc)
    if description is not None:
        return _until_tag(doc, description.end(), tag)
    returned = _RETURNED.search(doc)
    if returned is None:
        return text
    text = _until_tag(doc, returned.end(), tag)
    kind = (_SIGNED_TYPE if is_type_signed or text[:1] in "{[" else _PLAIN_TYPE).match(text)
    text = text if kind is None else text[kind.end() :]
    # One word is a type's name.
    if len(text.split()) < 2:
        return ""
    if text[:6].lower() == "return":
        return text
    return f"Returns {text[0].lower() + text[1:] if _DETERMINER.match(text) else text}"


def clean_markup(doc: str) -> str:
    """Replace inline tags, links and everyday HTML by their text; see `CommentMiner`."""
    snippet = _SNIPPET.search(doc)
    doc = doc if snippet is None else doc[: snippet.start()]
    doc = doc.translate(_REMOVED_SIGNS)
    if "`" in doc:
        doc = _BACKTICKS.sub(lambda code: code[0].translate(_HIDDEN), doc)
    if "]{@" in doc:
        doc = _LINK.sub(r"\1", doc)
    if "{@" in doc:
        doc = _OPEN_TAG.sub("", _INLINE_TAG.sub(_tagged_text, doc))
    if "<" in doc:
        doc = _HTML_CODE.sub(lambda code: _literal(html.unescape(code[2])), doc)
        doc = _HTML_LINE.sub(" ", _HTML_BREAK.sub("\n\n", doc))
        for _ in range(2):
            doc = _HTML_INLINE.sub(r"\2", doc)
    return (html.unescape(doc) if "&" in doc else doc).translate(_SHOWN)


_REMOVED_SIGNS = dict.fromkeys(range(0x0E, 0x14))


def _until_tag(doc: str, start: int, tag: re.Pattern[str]) -> str:
    following = tag.search(doc, start)
    return doc[start : None if following is None else following.start()]


def _literal(text: str) -> str:
    """What code says, with the signs of code where it would pass as HTML without."""
    return (f"`{text}`" if HTML_ELEMENT.search(text) and "`" not in text else text).translate(_HIDDEN)


def _tagged_text(tag: re.Match[str]) -> str:
    kind, content = tag[1].lower(), " ".join(tag[2].split())
    if kind in ("inheritdoc", "docroot", "internal"):
        return ""
    if kind in ("code", "literal"):
        return _literal(content)
    if kind == "return":
        # Javadoc makes a sentence of it, with whatever tags are in it.
        return f"Returns {_INLINE_TAG.sub(_tagged_text, content).rstrip('.')}."
    if kind == "index":
        return content.partition(" ")[0] if not content.startswith('"') else content[1:].partition('"')[0]
    is_link = kind in ("link", "linkplain", "linkcode", "see", "value", "tutorial")
    target = _TARGET.fullmatch(content) if is_link else None
    if target is None:
        return content
    return _literal(target[2] or target[1].replace("#", ".").lstrip("."))


def _is_ruler(line: str) -> bool:
    return len(line.strip()) > 2 and not line.strip(_RULER_SIGNS + " \t")


def _is_title(line: str) -> bool:
    ends = line[:3], line[-3:]
    return ends[0] == ends[1] == ends[0][:1] * 3 and ends[0][:1] in _RULER_SIGNS and len(line) > 6


def _is_prose(line: str) -> bool:
    """Whether a line reads as a sentence does, whatever it ends with."""
    if len(_FUNCTION_WORD.findall(line)) > 1:
        return True
    return _STATEMENT.match(line) is None and _PROSE.match(line) is not None
