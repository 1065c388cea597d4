"""From a function's documentation to a search query, and which queries are no use."""

from __future__ import annotations

import inspect
import re

from st_softinfonce.data.remarks import is_remark, without_remarks

_FIELDS = (
    "param|parameter|params|arg|argument|args|key|keyword|kwarg|type|return|returns|rtype|raise|raises|except|exception|"
    "throws|yield|yields|ytype|var|ivar|cvar|vartype|meta|note|see|since|deprecated|todo|author|version|example"
)
_SECTIONS = (
    "args|arguments|parameters?|params|keyword arg(?:ument)?s|keywords|options?|other parameters|returns?|yields?|"
    "receives|raises|throws|exceptions?|warns|warnings?|examples?|usage|notes?|see also|references?|attributes|"
    "methods|inputs?|outputs?|todo|shapes?|side effects|(?:pre|post)conditions?|pseudocode|algorithm"
)
_END_OF_TEXT = re.compile(
    rf"""
      (?<!\S):(?:{_FIELDS})(?:\s[^:\n]*)?:                              # Sphinx field
    | ^[ \t]*[@\\](?:{_FIELDS})\b                                       # Epydoc, Javadoc, Doxygen
    | ^[ \t]*(?:[*]{{2}}|[#]+[ \t]*)?(?:{_SECTIONS})(?:[*]{{2}})?[ \t]*:{{1,2}}(?:[*]{{2}})?[ \t]*$   # Google section
    | ^[ \t]*(?:args|arguments|parameters|params|returns?|yields?|raises|examples?|usage)[ \t]*:(?!:)
    | ^[ \t]*\*{{0,2}}\w+[ \t]\(`[^\n]*\)[ \t]*(?:$|:(?!:))              # Google argument without its section
    | ^[ \t]*\*{{0,2}}\w+[ \t]\([\w.]+(?:\[[^\n]*\])?(?:,[^()\n]*)?\)[ \t]*:(?!:)
    | ^[ \t]*(?:{_SECTIONS})[ \t]*\n[ \t]*[-=~]{{3,}}[ \t]*$            # NumPy section
    | ^[ \t]*[#]{{1,6}}[ \t]+(?:{_SECTIONS})[ \t]*$                     # Markdown section
    | ^[ \t]*>>>                                                        # example
    | ^[ \t]*>[ \t]*\[![a-z]+\]                                         # Markdown's alert
    | ^[ \t]*\.\.[ \t]+[\w:-]+::                                        # reStructuredText directive
    | ^[ \t]*(?:`{{3,}}|~{{3,}})[\w{{}}.+= -]*$                             # Markdown's fence
    """,
    re.VERBOSE | re.MULTILINE | re.IGNORECASE,
)
# A note that the authors left for themselves.
_TODO = re.compile(
    r"^[ \t]*(?://|#)?[ \t]*(?:(?:TODO|FIXME|XXX|HACK|NOTE TO SELF)\b|todo[:(]|fixme[:(])"
    r"|(?<=\s)(?://|\#)[ \t]*(?:TODO|FIXME|XXX|HACK)\b|(?<=[.!?;)]\s)[ \t]*(?:TODO|FIXME|XXX|HACK)\b",
    re.MULTILINE,
)
# What speaks to linters, coverage tools and type checkers; what follows on its line belongs to it.
_TOOL = re.compile(
    r"(?:^|(?<=\s))(?://|\#|/\*)?[ \t]*(?:nolint\b(?::\S+)?|\#nosec\b|noqa\b|NOSONAR\b|NOPMD\b|pragma:[ \t]*no\b"
    r"|type:[ \t]*ignore\b|mypy:|pylint:|pyright:|flake8:|isort:|yapf:|fmt:[ \t]*(?:on|off|skip)\b"
    r"|eslint-\w+|eslint[ \t]+[\w/-]+:|es[lh]int-disable|(?:istanbul|c8|v8)[ \t]+ignore\b|jshint\b|jslint\b|jscs:"
    r"|tslint:|prettier-ignore|biome-ignore|deno-lint-ignore|webpack\w+:|@ts-\w+|[@\#]__\w+__|\$Flow\w+|@flow\b|sourceMappingURL"
    r"|noinspection\b|@noinspection\b|@formatter:|CHECKSTYLE\b|language=\w+"
    r"|phpcs:|@phpcs\w*|phpstan-\w+|@phpstan-\w+|@psalm-\w+|psalm-\w+|@phan-\w+|@codeCoverageIgnore\w*|codingStandards\w+"
    r"|rubocop:|steep:|:nodoc:|:nocov:|:yields?:|:stopdoc:|:startdoc:|:category:)[^\n]*",
    re.MULTILINE,
)
_LIST = re.compile(
    r"^[ \t]*(?:[-*+•][ \t]+|\d+[.)][ \t]+|\|.*\|[ \t]*$|\+[-=+]{3,}|[-=]+>"
    r"|:?[`*+\w.\[\]]+(?:[ \t]*\([^()\n]*\))?[ \t]+(?:-{1,2}|\u2013|::|=>)[ \t]+\S)",
    re.MULTILINE,
)
_TYPES = "str|string|int|integer|float|number|bool|boolean|bytes|list|array|ndarray|dict|tuple|set|object|callable"
_LABEL = re.compile(
    r"\A(?:(?:Public|Internal|Private|Protected|(?:Short )?[Dd]escription|Desc|Summary|Purpose|Synopsis|Brief"
    r"|Overview)[ \t]*:\s+(?=\S)"
    rf"|(?:{_TYPES})(?:\[[^\n]*?\])?:\s+(?=[A-Z])"
    r"|(?:Function|Method|Name)[ \t]*:[ \t]*[\w.:#$]+(?:\([^()\n]*\))?(?:[ \t]+-[ \t]+|[ \t]*\n\s*)(?=\S))"
)
# A type before the text: `[Array<String>]` (YARD), `{?number}` (JSDoc), `(list of str)` (NumPy).
_TYPE = re.compile(
    rf"\A(?:\[(?:(?=[A-Z])|(?=(?:{_TYPES})\b))[^\[\]\s]+(?: ?(?:[|,]|=>) ?[^\[\]\s]+)*\]"
    r"|\{[^{}\s]+(?: ?[|,] ?[^{}\s]+)*\}"
    rf"|\((?:{_TYPES})(?: of \w+)?(?:, optional)?\)|`[\w.\[\], |]+`:(?=\s+[A-Z]))\s+(?:-[ \t]+)?"
    r"(?=[A-Z]|(?:the|an?|whether|true|false|if|all|any|each|number|list)\b)"
)
_SIGNATURE = re.compile(r"\A\s*[\w.]+\([^\n]*\)[ \t]*(?:-+>[^\n]*)?\n(?=\s*\S)")
_HEADING = re.compile(r"\A\s*[#]{1,6}[ \t]+[^\n]*\n\s*(?=\S)")
_QUOTE = re.compile(r"\A\s*(?:^[ \t]*>[ \t][^\n]*(?:\n|\Z))+", re.MULTILINE)
_UNDERLINE = re.compile(r"^[ \t]*([-=~*#^])\1{2,}[ \t]*$", re.MULTILINE)
_PARAGRAPH = re.compile(r"\n[ \t]*\n")
_ROLE = re.compile(r"(?<![\w`])(?::[A-Za-z][\w+.-]*)+:`[~!.]*([^`<]*?)(?:\s*<[^`>]*>)?`")
_REFERENCE = re.compile(r"(?<![\w`])`([^`<>]+?)(?:\s*<[^`>]*>)?`__?(?!\w)")
_FOOTNOTE = re.compile(r"\s*\[(?:\#?\w{0,20}|\*)\]_(?!\w)")
_MARKDOWN_LINK = re.compile(r"!?\[([^\]\n]{1,200})\]\(\s*[^()\s]+(?:\([^()\s]*\))?(?:\s+\"[^\"]*\")?\s*\)")
_AUTOLINK = re.compile(
    r"\s*(?:<https?:[^<>\s]*>|\(\s*(?:see:?\s*)?https?:[^()\s]*(?:\([^()\s]*\))?[^()\s]*\s*\))", re.IGNORECASE
)
_STRONG = re.compile(r"(?<![\w*])\*\*(?=[^\s*])([^*\n]+?)(?<=[^\s*])\*\*(?![\w*])")
# What announces a list or an example that is no longer there, behind a whole sentence.
_RUN_IN = re.compile(
    r"(?<=[.!?]) (?:[^.!?]{1,60}|(?:e\.g\.|i\.e\.)[^.!?]{0,20}):$|,? (?:e\.g\.|for example|such as|like so):$",
    re.IGNORECASE,
)
# What is set off behind a colon: an example or a table.
_SET_OFF = re.compile(r"(?<=:)[ \t]*\n(?=[ \t]{2,}\S)")
_SIGNED_NAME = re.compile(r"%%(\w+)%%|\[\[([\w.#-]+)(?:\|[^\[\]]*)?\]\]")
_BULLET = re.compile(r"\A(?:[-*+•]|\d+[.)]|#{1,6}) (?=\w)")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\s]+")
_SET_OFF_NAME = re.compile(r"(?:\([^()\n]*\))?[`*_]*(?:[ \t]*:(?!:)|[ \t]+(?:--?|\u2013|\u2014))\s+(?=\S)")
_NEXT_LINE = re.compile(r"\n( *)(?=[^\s])")
_PARAGRAPHS = 3
_FOLLOWING = "\n\nX"
_RUN = re.compile(r"([-=~*#^])\1\1")
_SIGNS_OF_END = frozenset(":@\\#>`~")
_SIGNS_OF_TODO = ("TODO", "FIXME", "XXX", "HACK", "NOTE TO SELF", "todo", "fixme")

_ELEMENTS = (
    "address|article|aside|audio|base|blockquote|body|br|button|canvas|caption|cite|code|col|colgroup|datalist|dd|del|"
    "details|dfn|dialog|div|dl|dt|em|embed|fieldset|figcaption|figure|font|footer|form|frame|frameset|h[1-6]|head|header|"
    "hr|html|iframe|img|input|ins|kbd|label|legend|li|link|main|map|mark|menu|meta|meter|nav|noscript|object|ol|optgroup|"
    "option|output|para|param|picture|pre|progress|ruby|samp|script|section|select|small|source|span|strike|strong|style|"
    "sub|summary|sup|svg|table|tbody|td|template|textarea|tfoot|th|thead|title|tr|track|tt|ul|var|video|wbr"
)
HTML_ELEMENT = re.compile(
    rf"</?(?:{_ELEMENTS}|{_ELEMENTS.upper()}|[abipqsu])(?:\s[^<>]*)?/?>"
    r"|</[A-Za-z][\w:.-]*\s*>|<[A-Za-z][\w:.-]*\s[^<>]*=[^<>]*>|<!--"
)
"""Elements of HTML; a type's parameters (`List<T>`) and placeholders (`<name>`) are none."""
_ADDRESS = re.compile(r"\bhttps?:|\bftp:|\bwww\.", re.IGNORECASE)
_CODE_SPAN = re.compile(r"`[^`]*`")
_WORD = re.compile(r"\w+")


def dedent(doc: str) -> str:
    """Do what `inspect.cleandoc` does, at once where no line has less indent than the first below the first."""
    line = doc.find("\n")
    if line < 0 and "\t" not in doc:
        return doc.lstrip()
    begin = _NEXT_LINE.search(doc, line)
    if begin is not None and "\t" not in doc:
        margin = begin[1]
        dedented = doc.replace(f"\n{margin}", "\n") if margin else doc
        if not margin or len(doc) - len(dedented) == len(margin) * (doc.count("\n") - doc.count("\n\n")):
            return dedented.lstrip(" ").strip("\n")
    return inspect.cleandoc(doc)


def make_query(doc: str) -> str:
    """Make the query of a documentation: its first paragraph as one line, without sections, tags and examples.

    A signature in the first line (`pad(input) -> Tensor`) and a heading are left out if text follows them, and so are
    quotations (`> text`), labels (`Public:`, `Summary:`) and types before the text (`[Boolean] whether`). Lists,
    notes to the authors (`TODO`) and what speaks to tools (`noqa`, `nolint`) end the text. Roles, references and
    links become their text (``:class:`~a.B` `` becomes `a.B`), bold text loses its stars; backticks stay. Remarks
    (`Note that ...`, `Called by ...`, `See ...`) are left out where another sentence, or one of the next two
    paragraphs, says what the function does.

    Args:
        doc: The documentation, dedented, without quotes or comment signs.

    Returns:
        The query; empty if the documentation has no text before its first section.
    """
    start = len(doc) - len(doc.lstrip())
    blank = _PARAGRAPH.search(doc, start)
    if blank is not None:
        # Most first paragraphs say it. A letter stands for those that follow.
        queries = _queries_of(f"{doc[start : blank.start()]}{_FOLLOWING}")
        if queries != [_FOLLOWING.strip()] and not is_remark(queries[0]):
            return queries[0]
    first, *others = _queries_of(doc)
    if not is_remark(first):
        return first
    return next((query for query in others if query and not is_remark(query)), first)


def without_name(doc: str, name: str) -> str:
    """Take a function's name off the start of its documentation where a dash or colon sets it off (`add - Adds`).

    Args:
        doc: The documentation.
        name: The function's name alone.

    Returns:
        What follows, or all of it.
    """
    rest = doc.lstrip("`*_ \t\n")
    if not name or not rest[: len(name)].lower() == name.lower():
        return doc
    begin = _SET_OFF_NAME.match(rest, len(name))
    return doc if begin is None else rest[begin.end() :]


def query_rule(query: str, min_tokens: int, max_tokens: int) -> str | None:
    """Find the rule of `FUNCTION_RULES` that drops a query for what it is, whatever language it is in.

    Tokens are counted as words (runs of letters, digits and underscores) and as what white space separates, and both
    counts must fit: a full stop does not make a query longer, and a hyphen does not either. HTML is markup except
    between backticks; web addresses are everywhere.

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
    if ((":" in query or "." in query) and _ADDRESS.search(query)) or (
        "<" in query and HTML_ELEMENT.search(_CODE_SPAN.sub("", query))
    ):
        return "query_markup"
    if not is_latin(query):
        return "query_not_english"
    counts = (len(words), len(query.split()))
    if min(counts) < min_tokens:
        return "query_too_short"
    return "query_too_long" if max(counts) > max_tokens else None


def is_latin(text: str) -> bool:
    """Find out whether at least three quarters of a text's letters are ASCII, and none of its signs is a surrogate."""
    if text.isascii():
        return True
    letters = [letter for letter in text if letter.isalpha()]
    # Lone surrogates, which only an escape can bring about, are text in no language.
    return 4 * sum(map(str.isascii, letters)) >= 3 * len(letters) and not any(
        "\ud800" <= sign <= "\udfff" for sign in text
    )


def _queries_of(doc: str) -> list[str]:
    """The queries that the first paragraphs of a documentation make, as one line each."""
    # Each rule is asked only where there is a sign that it needs.
    if not _SIGNS_OF_END.isdisjoint(doc) or "---" in doc or "===" in doc:
        end = _END_OF_TEXT.search(doc)
        doc = doc if end is None else doc[: end.start()]
    todo = _TODO.search(doc) if any(map(doc.__contains__, _SIGNS_OF_TODO)) else None
    doc = _TOOL.sub("", doc if todo is None else doc[: todo.start()])
    if ">" in doc:
        doc = _QUOTE.sub("", doc)
    if "(" in doc:
        doc = _without_signature(doc)
    doc = _UNDERLINE.sub("", doc).strip() if _RUN.search(doc) else doc.strip()
    if doc.startswith("#"):
        doc = _HEADING.sub("", doc)
    if ":" in doc:
        doc = _LABEL.sub("", doc)
    if doc.startswith(("[", "{", "(", "`")):
        doc = _TYPE.sub("", doc)
    return list(map(_query_of, _PARAGRAPH.split(doc, maxsplit=_PARAGRAPHS)[:_PARAGRAPHS]))


def _query_of(text: str) -> str:
    """The query that a paragraph makes."""
    line = text.find("\n")
    item = _LIST.search(text, line + 1) if line >= 0 else None
    text = text if item is None else text[: item.start()]
    if ":" in text:
        text = _SET_OFF.split(inspect.cleandoc(text), maxsplit=1)[0]
    if "`" in text or "]_" in text:
        text = _FOOTNOTE.sub("", _REFERENCE.sub(r"\1", _ROLE.sub(r"\1", text)))
    if "%%" in text or "[[" in text:
        text = _SIGNED_NAME.sub(lambda name: name[1] or name[2], text)
    if "](" in text:
        text = _MARKDOWN_LINK.sub(r"\1", text)
    if ":" in text:
        text = _AUTOLINK.sub("", text)
    if "**" in text:
        text = _STRONG.sub(r"\1", text)
    query = " ".join(text.split())
    query = query if query.isprintable() else _UNPRINTABLE.sub(" ", query).strip()
    query = _BULLET.sub("", query)
    query = _RUN_IN.sub("", query) if query.endswith(":") else query
    return without_remarks(query)


def _without_signature(text: str) -> str:
    """The text without a signature in its first line, if the line is one."""
    signature = _SIGNATURE.match(text)
    if signature is None:
        return text
    line = signature[0].strip()
    # `add(a) is slow (see below)` is a sentence.
    is_whole = line.endswith(")") and line.count("(") == line.count(")") and line.find(")") == len(line) - 1
    return text[signature.end() :] if "->" in line or is_whole else text
