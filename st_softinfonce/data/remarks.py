"""Remarks: sentences that say who calls a function, how, or where to read on, but not what it does."""

from __future__ import annotations

import re
from functools import lru_cache

_THIS = r"(?:(?:This|The) (?:method|function|routine|helper) |Method |Function |It )?"
_IS = rf"(?:{_THIS}[Ii]s )?"
# What tells when a function is called, as the documentation of a callback does, or what for.
_WHEN = r"to|when|whenever|if|after|before|during|while|on|at|each|every|once|upon"
_VERBS = (
    "check|test|ensure|make|verify|assert|determine|see|tell|return|get|set|say|find|validate|confirm|decide|indicate|"
    "compute|do|report|detect|know|assume"
)
_DETERMINERS = "the|an?|this|that|all|any|every|each|its|given"
_JOINS = "that|which|if|whether|when|where|what|how|who|as|while|so|because|but|or|and|to|for|whose|until|unless"
# What the sentence is about, where it is not the function: `Masked arrays`, `The SQLite adapter`, never `Fetches the`.
_SUBJECT = (
    r"(?!(?:This|It|Does|Do|Don't|Can|Is|Are|Like|Unlike|Answers|Always|Never|Method|Function)\b)"
    rf"(?!(?i:(?:{_VERBS})(?:s|es)?|{_JOINS})\b)(?:(?:The|An?|Our|Most|Many|All|Some) )?"
    rf"(?!(?:{_DETERMINERS})\b)[`'\"]?\w[\w`'\".:#-]*"
    rf"(?:(?<!\.) (?!(?:{_JOINS}|{_DETERMINERS}|why|you|method|function)\b)[\w`'.:#-]+){{0,4}}"
)

# What a remark begins with, by kind; a `$` is the end of the sentence.
_KINDS = {
    "note": r"(?:NOTE|NB|N\.B\.|WARNING|CAUTION|IMPORTANT|ATTENTION)\b"
    r"|(?:Please )?(?:[Nn]ote|Notice|Warning|Caution|Important|Attention)(?::|,? that\b)",
    "elsewhere": r"See (?!if\b|whether\b|how\b|what\b|which\b|that\b)|\([^()]*\)[.!]?$"
    r"|(?:Copied|Taken|Adapted|Borrowed|Ported) (?:and \w+ )?from\b"
    r"|The following (?:\w+ )?(?:methods?|functions?|code|two|three)\b",
    "deprecation": r"(?:\w+ly )?(?:[Dd]eprecated|[Oo]bsolete)(?: (?:as of|since|in)\b|[.:,;]|$)"
    r"|(?:Please )?[Uu]se\b.* instead\b"
    rf"|{_THIS}[Ii]s (?:now )?(?:deprecated|obsolete|unused)\b|Unused\b"
    r"|(?:Passing|Using|Calling|Use of)\b.* is (?:now )?(?:deprecated|obsolete)\b"
    r"|(?:Docstring|Documentation) is inherited\b"
    rf"|{_THIS}(?:[Ss]hould|[Ww]ill|[Cc]an|[Mm]ay|[Tt]o) be removed\b"
    rf"|{_IS}(?:[Nn]ot|[Nn]ever|[Nn]o longer) (?:used|called|invoked|needed|supported|implemented)\b",
    "condition": rf"{_THIS}(?:[Ss]hould|[Mm]ust|[Mm]ay|[Cc]an|[Nn]eeds to|is to|has to)(?: only| not| never| always)*"
    r" be (?:only )?(?:called|invoked|used|overridden|implemented|accessed|reached)\b(?!.* to )"
    rf"|{_THIS}(?:[Ww]ill|[Mm]ust|[Ss]hould) (?:only |always |never )?(?:be )?(?:called|invoked|run)\b(?!.* to )"
    r"|(?:Must|Should|Needs? to|Has to|Have to) be\b(?!.* to |.*\?)"
    rf"|{_IS}(?:[Mm]eant|[Ii]ntended) to be (?:called|used)\b|(?:Do not|Don't|Never)"
    r" (?:call|use|invoke|override|require|import|rely|modify|edit|remove)\b"
    r"|Call (?:before|after|when|once|at)\b(?!.* (?:to|so) )"
    r"|(?:The )?[Cc]allers? (?:must|should|has to|needs? to)\b"
    r"|[\w. ]{1,40} (?:must|needs?|should)(?: to)? be (?:held|locked)\b"
    r"|(?:The|An?|Any|All)(?: (?!is\b|are\b|method\b|function\b|that\b|which\b)[\w'-]+){1,6}"
    r" (?:must|needs? to|has to|have to)(?: not)? be\b",
    "user": r"(?:Internal|Private|Utility|Helper)(?: (?:use only|API|function|method|helper|use|utility))*"
    r"(?: for \S+)?[.!]$"
    r"|(?:Maintained|Kept|Retained|Left|Provided|Exists)(?: only| here)* for\b(?!.*,)"
    r"|[Ff]or (?!\w+ing\b|each\b|every\b|all\b|any\b|an?\b|the given\b)[^,:]{1,60}[.!]?$"
    r"|(?:\w+ ){0,2}(?:[Mm]ethod|[Ff]unction|[Rr]outine|[Hh]elper|[Ee]ndpoint|[Cc]ode|[Pp]art) used"
    r"(?: only| internally)? by (?!.*(?:,| to ))"
    r"|(?:[Bb]ackwards?[ -])?[Cc]ompatibility (?:method|function|shim|layer|hack)[.!]?$"
    rf"|{_IS}(?:[Oo]nly )?(?:intended |meant |here |there )?"
    r"[Ff]or (?:(?:internal|inspection|testing|debugging|private|backwards?|compat\w*|legacy|convenience"
    r"|now|easier|simpler|better|faster)\b|\w+ reasons?\b)(?!.*(?:[,:]| - ))"
    rf"|{_IS}(?:only )?(?:[Uu]sed|[Cc]alled|[Ii]nvoked|[Nn]eeded|[Rr]equired)"
    r"(?: only| internally| directly| automatically)* (?:by|in|from|for(?! \w+ing))\b"
    rf"(?!.*(?:,|\b(?:{_WHEN})\b))",
    "caller": rf"{_IS}(?:[Cc]alled|[Ii]nvoked) (?:by|from) (?!.*(?:[,:]| to ))",
    "reason": r"We\b.*\b(?:so that|so|in case|because|to|for)\b"
    r"|We (?:want|need|have to|must|cannot|can't|could|do not|don't|should|used to|only need|won't"
    r"|will not)\b"
    r"|(?:[Ff]or|[Ii]n|[Ss]ince|[Bb]ecause|[Aa]s) [^,]{1,60}, we\b|[Ss]o that\b|[Cc]urrently,? [a-z]"
    r"|The (?:reason|intent|idea|problem|trick|rationale|issue|catch|(?:best|preferred) way)\b.* (?:is|was|are)\b"
    r"|This is (?:because|necessary|needed|required|an? hack|ugly)\b"
    r"|(?:Since|Because|Although|Even though|Normally|Sometimes|Usually|On purpose|As few|As many|So)\b"
    rf"|{_THIS}(?:only |just )?(?:exists\b|is (?:\w+ly )?(?:required|necessary|needed|provided|important)\b)"
    r"(?![^.]*,)"
    r"|(?:[Dd]irty |[Uu]gly )?[Hh]ack\b",
    "template": r"(?:Describe|Insert|Enter) .*\bhere[.!]?$|Description of the (?:[Mm]ethod|[Ff]unction)\b|DOCUMENT ME"
    r"|\(?[Nn]on-[Jj]avadoc|Auto-?generated (?:method|javadoc)|No (?:description|documentation)\b",
    # `libxml2 fails to escape comments`, where it is the function that would have no subject.
    "other subject": rf"[:`'\"]?(?!(?:this|it|that|there|true|false|nil|whether|if|when|(?:{_VERBS})(?:s|es)?)\b)"
    rf"[a-z][a-z0-9.'-]*(?: (?!(?:{_JOINS})\b)[\w.'<>=-]+){{0,5}}"
    r" (?:is|are|was|were|fails?|doesn't|isn't|aren't|cannot|can't|has|have)\b",
    # `Masked arrays cannot be resized`, `Dos time is only stored with two seconds accuracy`.
    "fact": rf"{_SUBJECT} (?:(?:(?:does|do|is|are|can|will|may) not|(?:does|do|is|are|ca|wo)n't|cannot)\b(?! support)"
    r"|(?:is|are|was|were|has|have|will) (?:only|always|already|never|usually|often|generally|sometimes|also|still"
    r"|typically|normally|probably|just|actually|mostly|special|needed|required|necessary|important)\b"
    r"|(?:was|were|got) (?:added|introduced|removed|fixed|renamed|changed) (?:to|in|from|since)\b"
    r"|(?:is|are) (?:too|as|based|basically|considered|assumed|expected)\b"
    r"|can (?:also|only|be|usually)\b|(?:may|might|could|would|should|must|needs? to)\b)"
    r"|(?:[A-Z][a-z]*[A-Z]\w*|[A-Z]\w+ \d[\d.]*\+?) (?:requires|needs|expects|wants|allows|uses|throws|raises|ignores"
    r"|treats|stores|deprecates|introduced|changed|removed|behaves|works|fails|likes|lets)\b"
    r"|It(?:'s| is| isn't| was| doesn't| does not| will be| may| must| should| would| has| might)\b"
    r"|There(?:'s| (?:is|are|was|were|should|must|may|might))\b|(?:These|Those|But|Here)\b"
    r"|Not (?:all|every|quite|intended|generally|really|yet|strictly)\b",
    "reader": r"You (?:should|must|might|may|need|have|do|don't|will|(?:can|could) (?:also|override|overwrite))\b"
    r"|If (?:calling|they|you(?:'re| are| have| do| don't| need))\b"
    r"|Only (?:use|call)\b(?:.* (?:this|it)\b|.* if you\b)|(?:Mostly|Mainly|Primarily) (?:used|for|called)\b"
    r"|(?:Only used|Used (?:mostly|mainly|primarily))\b(?!.* to )",
    "heading": r"(?:Other|Some|More|Misc\w*|Various|Internal|Public|Private|Protected|Helper|Utility|Class|Instance"
    r"|Static|Singleton|Convenience|Common|Shared|Abstract|Compatibility|Template|These)"
    r"(?: (?!for\b|to\b|of\b)[\w-]+){0,2} (?:methods|functions|helpers|accessors|getters|setters|callbacks|hooks)\b",
    "example": r"[\w.:]+[!?]?\(.*(?:[,(\[{]$|\)\s*(?:#\s*)?(?:=+>|->|\u2192))",
    "purpose": r"(?:This|It) (?:only |just |\w+ly )?"
    r"(?:exists|(?:is|can be) (?:not|the only|an? \w+ hack|(?:\w+ly )?(?:useful|handy)))\b"
    r"|To (?:make|keep|avoid|prevent|support|simplify|ease|satisfy|reduce|save|work around|get around)\b"
    r"(?![^.]*,)|(?:Useful|Handy|Helpful|Convenient)(?: only| mainly| mostly)? (?:for|when|if|in)\b"
    r"|(?:Needed|Required|Necessary)(?: only)? (?:to|because|since|so|as|when|if)\b"
    r"|(?:Pulled|Split|Factored|Broken|Moved|Extracted|Separated) (?:out|here|because|so|since|for)\b"
    r"|(?:Modell?ed|Inspired|Based|Patterned) (?:after|by|on)\b(?![^.]*,)"
    r"|(?:Override|Overwrite|Redefine) (?:this|it|me)(?: method| function)?"
    r"(?: (?:in|to|if|when|with|so)\b|[.!]|$)"
    r"|[Tt]his is (?:the|an?) (?:form|case|place|point|part|bit|trick|hack)\b"
    r"|This (?:code|block|section|line|happens|means|(?:class|module|file) (?:is|was|has|contains|provides))\b"
    r"|Overridden (?:because|for|since)\b|Because\b|Due to\b|[^,]{1,80}\bmust be \w+ (?:\w+ ){0,4}because\b"
    r"|(?:A )?[Ww]ork(?:s|ing)?[ -]?arounds?\b|(?:Bug ?fix|Fix(?:es)?) (?:for|issue|bug|#)",
    "history": r"(?:Added|Introduced|Renamed) (?:in|by|from|since|because)\b|Formerly\b|Previously\b"
    r"|(?:As of|Prior to|Starting (?:from|with|in)|Since) (?:version\b|v?\d|[A-Z]\w+(?: \w+){0,2} v?\d)"
    r"|(?:On|In|With) [A-Z]\w+ v?\d+\.[\dx.]*\+?[ ,]|(?:[A-Z]\w+ ){1,3}overrides? this\b"
    r"|.{1,80} (?:has|have) been (?:extracted|moved|split|pulled|factored)\b",
    "writer": r"I(?:'m|'ve|'d| (?:don't|think|am|guess|hate|wish|know|would|need|want|have|was|hope|believe|could|can"
    r"|did|suspect|suppose|added|left))\b|Let's\b|(?:Why|How come)\b.*\?$"
    r"|We(?:'re|'ve| (?:also|assume|only|never|always|still|prefer|rely|expect|avoid|know|think|hope|are|have|can|may"
    r"|might))\b"
    r"|(?:Perhaps|Not sure|Hm+|Ugh|Oops|Sorry|Ideally|Unfortunately|Obviously|Luckily|Sadly|Apparently)\b",
    "assumption": r"Assum(?:e|es|ing)\b(?![^.]*(?:,|\band \w+s\b))"
    r"|(?:All|Any|The|An?|This)(?: (?!method\b|function\b|that\b|which\b)[\w'-]+){1,5}"
    r" should (?:have been|already|never)\b"
    r"|(?:Every|Each)(?: [\w'-]+){1,4} (?:must|should|needs? to|has to)\b",
    "others": r"(?:[Ss]ome|[Mm]any|[Mm]ost|[Ss]everal|These|Those)(?: (?!that\b|which\b)[\w'.-]+){0,8}"
    r" (?:are|were|do|don't|need|have|aren't|may|can|must|should|will)\b"
    r"|By default,? (?:those|these|we|this|it(?: is|'s))\b|Do nothing (?:if|when|unless)\b(?!.*[,;])"
    rf"|{_THIS}(?:[Aa]ccepts?|[Tt]akes?) (?:the same|any|no|optional) (?:\w+ )?(?:arguments?|options?|param\w*)\b"
    r"|(?:The )?(?:[Ss]ubclass(?:es)?|[Ii]mplementations|[Ii]mplement[oe]rs?|[Uu]sers|[Cc]lients|[Pp]lugins"
    r"|[Cc]allers?) (?:can|may|must|should|needs?|will|are|have|wants?|expects?)\b(?!.* to )",
    # The subject is not the function.
    "lack": r"(?:The|An?)(?: (?!method\b|function\b|that\b|which\b|who\b|to\b)[\w'-]+){1,5}"
    r" (?:doesn't|don't|isn't|aren't|can't|cannot|won't|didn't)\b"
    r"|[A-Z]\w*(?:\.|::)[\w.:]+ (?:is not|isn't|does not|doesn't)\b",
    "announcement": r"(?=.*:$).*\b(?:equivalent|shorthand|same|short|alias)\b",
}
_REMARK = re.compile("|".join(_KINDS.values()))
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\be\.g\.)(?<!\bi\.e\.)[)\"']? +(?=[A-Z`\"'(])")


@lru_cache(maxsize=8)
def is_remark(text: str) -> bool:
    """Find out whether the first sentence of a text is a remark.

    Args:
        text: One line.
    """
    end = _SENTENCE_END.search(text)
    return _REMARK.match(text, 0, len(text) if end is None else end.start()) is not None


def without_remarks(text: str) -> str:
    """Leave out the remarks that a text begins with.

    Args:
        text: One line.

    Returns:
        Its sentences from the first on that is no remark; all of them if there is none.
    """
    start = 0 if is_remark(text) else len(text)
    while start < len(text):
        end = _SENTENCE_END.search(text, start)
        if _REMARK.match(text, start, len(text) if end is None else end.start()) is None:
            return text[start:]
        start = len(text) if end is None else end.end()
    return text
