"""From a function's documentation to a search query, and which queries are no use."""

from __future__ import annotations

import re

_FIELDS = (
    "param|parameter|params|arg|argument|args|key|keyword|kwarg|type|return|returns|rtype|raise|raises|except|exception|"
    "throws|yield|yields|ytype|var|ivar|cvar|vartype|meta|note|see|since|deprecated|todo|author|version|example"
)
_SECTIONS = (
    "args|arguments|parameters?|params|keyword arg(?:ument)?s|other parameters|returns?|yields?|receives|raises|warns|"
    "warnings?|examples?|usage|notes?|see also|references?|attributes|methods|inputs?|outputs?|todo|shapes?|"
    "side effects|(?:pre|post)conditions?"
)
_END_OF_TEXT = re.compile(
    rf"""
      (?<!\S):(?:{_FIELDS})(?:\s[^:\n]*)?:                              # Sphinx field
    | ^[ \t]*[@\\](?:{_FIELDS})\b                                       # Epydoc, Javadoc, Doxygen
    | ^[ \t]*(?:{_SECTIONS})[ \t]*:{{1,2}}[ \t]*$                       # Google section
    | ^[ \t]*(?:args|arguments|parameters|params|returns?|yields?|raises)[ \t]*:(?!:)
    | ^[ \t]*\*{{0,2}}\w+[ \t]\(`[^\n]*\)[ \t]*(?:$|:(?!:))              # Google argument without its section
    | ^[ \t]*\*{{0,2}}\w+[ \t]\([\w.]+(?:\[[^\n]*\])?(?:,[^()\n]*)?\)[ \t]*:(?!:)
    | ^[ \t]*(?:{_SECTIONS})[ \t]*\n[ \t]*[-=~]{{3,}}[ \t]*$            # NumPy section
    | ^[ \t]*>>>                                                        # example
    | ^[ \t]*\.\.[ \t]+[\w:-]+::                                        # reStructuredText directive
    | ^[ \t]*(?:`{{3,}}|~{{3,}})[\w{{}}.+= -]*$                             # Markdown's fence
    """,
    re.VERBOSE | re.MULTILINE | re.IGNORECASE,
)
_SIGNATURE = re.compile(r"\A\s*[\w.]+\(.*\)[ \t]*-+>.*\n(?=\s*\S)")
_UNDERLINE = re.compile(r"^[ \t]*([-=~*#^])\1{2,}[ \t]*$", re.MULTILINE)
_PARAGRAPH = re.compile(r"\n[ \t]*\n")
_ROLE = re.compile(r"(?<![\w`])(?::[A-Za-z][\w+.-]*)+:`[~!.]*([^`<]*?)(?:\s*<[^`>]*>)?`")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\s]+")

_MARKUP = re.compile(r"</?[A-Za-z][\w:.-]*(?:\s[^<>]*)?/?>|<!--|\bhttps?:|\bftp:|\bwww\.", re.IGNORECASE)
_WORD = re.compile(r"\w+")

# Frequent words that no sentence of the language goes without for long and that English does not use.
_FOREIGN = frozenset(
    "der das und nicht ist ein eine einen wird werden mit auf für zur zum oder wenn diese dieser "
    "le les une dans pour avec sont qui que cette ces aux pas du "
    "el los las una por para del según como esta "
    "não uma dos ao quando della di che gli nel sono "
    "het een niet voor wordt zijn".split()
)
_ENGLISH = frozenset(
    "the a an of to in is are be for and or not if with from this that it as by on at when which return returns get "
    "set all no given used use".split()
)


def make_query(doc: str) -> str:
    """Make the query of a documentation: its first paragraph as one line, without sections, tags and examples.

    A signature in the first line (`pad(input) -> Tensor`) is left out if text follows it. Roles lose their signs
    (``:class:`~a.B` `` becomes `a.B`); other inline markup stays as it is.

    Args:
        doc: The documentation, dedented, without quotes or comment signs.

    Returns:
        The query; empty if the documentation has no text before its first section.
    """
    end = _END_OF_TEXT.search(doc)
    text = doc if end is None else doc[: end.start()]
    text = _UNDERLINE.sub("", _SIGNATURE.sub("", text)).strip()
    text = _PARAGRAPH.split(text, maxsplit=1)[0]
    return _ROLE.sub(r"\1", _UNPRINTABLE.sub(" ", text)).strip()


def query_rule(query: str, min_tokens: int, max_tokens: int) -> str | None:
    """Find the rule of `FUNCTION_RULES` that drops a query.

    Tokens are counted as words (runs of letters, digits and underscores) and as what white space separates, and both
    counts must fit: a full stop does not make a query longer, and a hyphen does not either.

    A query counts as English if at least three quarters of its letters are ASCII and it does not use two or more
    frequent words of German, French, Spanish, Portuguese, Italian or Dutch, and more of those than of English.

    Args:
        query: The text as `make_query` returns it.
        min_tokens: The fewest tokens that are enough.
        max_tokens: The most tokens that are not too many.

    Returns:
        The rule's name, or None if the query is fit for use.
    """
    words = _WORD.findall(query)
    if not words:
        return "query_too_short"
    if _MARKUP.search(query):
        return "query_markup"
    if not _is_english(query, words):
        return "query_not_english"
    counts = (len(words), len(query.split()))
    if min(counts) < min_tokens:
        return "query_too_short"
    return "query_too_long" if max(counts) > max_tokens else None


def _is_english(query: str, words: list[str]) -> bool:
    if not query.isascii():
        letters = [letter for letter in query if letter.isalpha()]
        # Lone surrogates, which only an escape can bring about, are text in no language.
        if 4 * sum(map(str.isascii, letters)) < 3 * len(letters) or any(
            "\ud800" <= sign <= "\udfff" for sign in query
        ):
            return False
    lowered = {word.lower() for word in words}
    foreign = len(lowered & _FOREIGN)
    return foreign < 2 or foreign <= len(lowered & _ENGLISH)
