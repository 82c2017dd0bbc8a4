"""Rules for what is written with letters and signs: addresses, abbreviations, words, symbols, marks.

The same kind of rules as in `quantities`, tried after the addresses and before single characters.
"""

import re
import unicodedata

from llasa.text import numbers
from llasa.text.quantities import Piece, Rule, always, any_of, said
from llasa.text.tables import (
    ABBREVIATIONS,
    ACRONYMS,
    COURTESY,
    FRONTED,
    IN_ADDRESSES,
    INITIALISMS,
    MONTH_NAMES,
    MONTHS,
    NAME_STARTS,
    NUMBERED,
    SENTENCE_STARTS,
    SHORT_MONTHS,
    SHORT_WORDS,
    SPECIAL_WORDS,
    SYMBOLS,
    TITLES,
)

MARKS = (",", ".", "!", "?")  # weakest first
SILENT_SIGNS = r"[\"'`\[\]{}–-]"

_ONSETS = (
    "BL|BR|CH|CL|CR|DR|FL|FR|GH|GL|GN|GR|KN|KR|PH|PL|PR|QU|RH|SC|SCH|SCR|SH|SHR|SK|SL|SM|SN|SP|SPL|SPR|SQU|ST|STR|SW|"
    "TH|THR|TR|TW|WH|WR"
)
_CODAS = (
    "CH|CK|CT|FF|FT|GHT|GH|LD|LF|LK|LL|LM|LP|LT|MP|NCH|ND|NG|NK|NT|NTH|PT|RCH|RD|RK|RL|RM|RN|RP|RLD|RST|RT|RTH|SH|SK|SS|ST|"
    "TCH|TH|TT|ZZ"
)
_READABLE = re.compile(
    rf"(?:{_ONSETS}|[B-DF-HJ-NP-TV-Z])?[AEIOUY]{{1,3}}(?:[^AEIOUY]{{1,3}}[AEIOUY]{{1,2}}){{0,9}}"
    rf"(?:(?:{_CODAS}|[B-DF-HJ-NP-TV-Z])S?)?"
)
_NEW_SENTENCE = re.compile(rf"[\"')\]]*(?:\s*$|\s+[\"'(]?(?:{SENTENCE_STARTS})\b)")
_CAPITALS_BEFORE = re.compile(r"(?<![A-Za-z])[A-Z]{2,12}[ ,!?']{1,3}$")
_CAPITALS_AFTER = re.compile(r"[ ,!?']{1,3}[A-Z]{2,12}(?![a-z])")
_ADDRESS_PART = re.compile(r"[A-Za-z]+|[0-9]+|.")


def _address(match: re.Match[str]) -> list[Piece]:
    """An address is read out sign by sign; a sentence's mark after it is not part of it."""
    text = match[0].rstrip(".,;:!?')")
    body = re.sub(r"^https?://", "", text)
    parts = [_address_word(part) for part in _ADDRESS_PART.findall(body.rstrip("/"))]
    pieces = [(" ".join(parts), match.start(), match.start() + len(text))]
    tail = (mark for mark in match[0][len(text) :])
    return pieces + [
        (mark if mark in MARKS else ",", match.end() - 1, match.end()) for mark in tail if mark != "'"
    ]


def _address_word(part: str) -> str:
    if part.isdigit():
        return numbers.whole(part) if len(part) < 3 else numbers.spelt(part)
    if part.isalpha():
        word = part.lower()
        return (
            " ".join(word)
            if word == "www" or not re.search("[aeiouy]", word) or word in ("uk", "io")
            else word
        )
    return IN_ADDRESSES.get(part, "")


def _spelt_with_dots(match: re.Match[str]) -> list[Piece]:
    letters = " ".join(match[0].replace(".", "").lower())
    return [said(match, letters), *_dot(match)]


def _dot(match: re.Match[str]) -> list[Piece]:
    """The dot of an abbreviation also ends the sentence when a new one follows."""
    after = match.string[match.end() : match.end() + 40]
    return [(".", match.end() - 1, match.end())] if match[0][-1] == "." and _NEW_SENTENCE.match(after) else []


def _title(match: re.Match[str]) -> list[Piece]:
    return [said(match, (TITLES | NUMBERED)[match[0].rstrip(".")])]


def _abbreviation(match: re.Match[str]) -> list[Piece]:
    return [said(match, ABBREVIATIONS[match[0][:-1]]), *_dot(match)]


def _month(match: re.Match[str]) -> list[Piece]:
    return [said(match, MONTH_NAMES[MONTHS[match[0][:-1]]]), *_dot(match)]


def _saint_or_street(match: re.Match[str]) -> list[Piece]:
    """ "St." is a saint before a name, unless a street's name stands before it."""
    named = re.search(r"[A-Z0-9][a-z]+ $", match.string[max(0, match.start() - 20) : match.start()])
    saint = re.match(r"\s[A-Z]", match.string[match.end() : match.end() + 2]) and not (named and _dot(match))
    return [said(match, "saint")] if saint else [said(match, "street"), *_dot(match)]


def _written_word(match: re.Match[str]) -> list[Piece]:
    pieces, at = [], match.start()
    for part in _humps(match[0]):
        start = match.string.index(part, at)
        at = start + len(part)
        pieces.append((_spoken(part, _is_shouted(match)), start, at))
    return pieces


def _humps(word: str) -> list[str]:
    """Split "YouTube" into "You" and "Tube", but not "McDonald"."""
    if word in SPECIAL_WORDS or word.startswith(NAME_STARTS) or "'" in word:
        return [word]
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", word).split(" ")


def _spoken(word: str, shouted: bool) -> str:
    if word in SPECIAL_WORDS:
        return SPECIAL_WORDS[word]
    base, _, ending = word.partition("'")
    plural = re.fullmatch("[A-Z]{2,5}s", base)
    base = base[:-1] if plural else base
    if not (base.isupper() and 2 <= len(base) <= 6 and ending in ("", "s", "S")) or _is_word(base, shouted):
        return word.lower()
    return " ".join(base.lower()) + ("'s" if plural or ending else "")


def _is_word(capitals: str, shouted: bool) -> bool:
    if capitals in ACRONYMS or capitals in SHORT_WORDS:
        return True
    readable = capitals not in INITIALISMS and _READABLE.fullmatch(capitals)
    return bool(readable) and (shouted or len(capitals) > 3)


def _is_shouted(match: re.Match[str]) -> bool:
    text, start, end = match.string, match.start(), match.end()
    before = _CAPITALS_BEFORE.search(text[max(0, start - 16) : start])
    return bool(before or _CAPITALS_AFTER.match(text[end : end + 16]))


def _symbol(match: re.Match[str]) -> list[Piece]:
    return [said(match, SYMBOLS[match[0]])]


def _greek(match: re.Match[str]) -> list[Piece]:
    return [said(match, unicodedata.name(match[0]).split(" ")[-1].lower())]


def space(match: re.Match[str]) -> list[Piece]:
    """White space is silent; an empty line ends a sentence."""
    return [said(match, ".")] if match[0].count("\n") > 1 else []


def dots(match: re.Match[str]) -> list[Piece]:
    """Three dots go on when the sentence does."""
    goes_on = re.match(r"\s?[a-z]", match.string[match.end() : match.end() + 2])
    return [said(match, "," if goes_on else ".")]


def marks(match: re.Match[str]) -> list[Piece]:
    """Of several marks together the strongest is said."""
    return [said(match, max((mark if mark in MARKS else "," for mark in match[0]), key=MARKS.index))]


def silent(match: re.Match[str]) -> list[Piece]:
    """Nothing is said."""
    return []


_HOST = r"[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,3}\.(?:com|org|net|edu|gov|io|co\.uk)(?![A-Za-z0-9-])"
_MAIL = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,4}"
_SIGN = r"[!#-;=?-~]"  # of an address: ASCII, since letters of other scripts cannot be said
ADDRESS_RULES: list[Rule] = [
    (rf"(?:https?://|www\.){_SIGN}{{1,200}}", _address),
    (rf"(?<![A-Za-z0-9]){_MAIL}", _address),
    (rf"(?<![A-Za-z0-9]){_HOST}(?!\.[A-Za-z])(?:/{_SIGN}{{0,200}})?", _address),
]
WORD_RULES: list[Rule] = [
    (r"(?<![A-Za-z])(?:[A-Z]\.){2,12}(?![A-Za-z])", _spelt_with_dots),
    (
        rf"(?<![A-Za-z.'])[A-Z]\.(?=\s?[A-Z])(?!\s(?:{SENTENCE_STARTS})\b)",
        lambda m: [said(m, m[0][0].lower())],
    ),
    (rf"(?<![A-Za-z])(?:{any_of(TITLES)})\.|(?<![A-Za-z])(?:{any_of(COURTESY)})(?=\s[A-Z])", _title),
    (rf"(?<![A-Za-z])(?:{any_of(NUMBERED)})\.(?=\s?[0-9])", _title),
    (
        rf"(?<![A-Za-z])(?:{any_of(SHORT_MONTHS)})\.",
        _month,
    ),
    (rf"(?<![A-Za-z])(?:{any_of(ABBREVIATIONS)})\.", _abbreviation),
    (r"(?<![A-Za-z])St\.", _saint_or_street),
    (r"(?<=\s)'n'(?=\s)", always("and")),
    (rf"(?i:{any_of(FRONTED)})(?![A-Za-z])", lambda m: [said(m, m[0].lower())]),
    (r"[A-Za-z]+(?:'[A-Za-z]+)*", _written_word),
    (r"(?<![α-ωΑ-Ω])[α-ωΑ-Ω](?![α-ωΑ-Ω])", _greek),
]
SIGN_RULES: list[Rule] = [
    (r"\s+", space),
    (r"[.…]{2,}(?![?!])", dots),
    (r"(?<=[A-Za-z])\.(?=[a-z0-9])", always("dot")),
    (r"[.,;:?!…]+", marks),
    (r"[—―]|--+|(?<=\s)[-–](?=\s)|[()]", always(",")),
    (r"#(?=[0-9])", always("number")),
    (r"#(?=[A-Za-z])", always("hashtag")),
    (r"(?<=[A-G])#", always("sharp")),
    (r"~(?=[0-9])", always("about")),
    (r"(?<=and)/(?=or\b)", silent),
    (rf"[{re.escape(''.join(SYMBOLS))}]", _symbol),
    (SILENT_SIGNS, silent),
]
