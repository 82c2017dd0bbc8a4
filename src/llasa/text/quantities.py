"""Rules for what is written with digits: dates, times, phone numbers, money, units, fractions.

A rule is a pattern and a function from its match to pieces: words, or one mark, with the place [start, end)
they came from. Repeats are bounded or consumed, so a rule costs the same at every place of a long text.
"""

import re
from collections.abc import Callable, Iterable

from llasa.text import numbers
from llasa.text.tables import (
    ARITHMETIC,
    CURRENCIES,
    MAGNITUDES,
    MONARCHS,
    MONTH_NAMES,
    MONTHS,
    NUMBERED_NOUNS,
    TIGHT_UNITS,
    UNITS,
)

Piece = tuple[str, int, int]
Rule = tuple[str, Callable[[re.Match[str]], list[Piece]]]


def said(match: re.Match[str], words: str, group: str | int = 0) -> Piece:
    """Return the words with the place of one group of the match."""
    return words, match.start(group), match.end(group)


def always(words: str) -> Callable[[re.Match[str]], list[Piece]]:
    """Return the reader of a rule that always says the same."""
    return lambda match: [said(match, words)]


def any_of(words: Iterable[str]) -> str:
    """Return a pattern for any of the words, longest first."""
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


_WHOLE = r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,5}(?![0-9])|[0-9]{1,15}(?![0-9]))"
_NUMBER = rf"(?:{_WHOLE}(?:\.[0-9]{{1,15}}(?![0-9]))?|(?<![0-9A-Za-z])\.[0-9]{{1,15}}(?![0-9]))"
_MONTH = rf"(?P<month>{any_of(MONTHS)})(?![A-Za-z])\.?"
_DAY = r"(?P<day>0?[1-9]|[12][0-9]|3[01])(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>[12][0-9]{3})(?![0-9])"
_HALF_DAY = r"(?P<half>[AaPp])(?:\.[Mm]\.|[Mm](?![A-Za-z]))"
_ROMAN = r"(?P<roman>(?=[IVXLC])C{0,3}(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3}))(?![A-Za-z])"
_SPOKEN_PAIRS = {"24/7": "twenty four seven", "9/11": "nine eleven", "50/50": "fifty fifty"}
_DENOMINATORS = (*range(2, 21), 25, 30, 32, 40, 50, 60, 64, 100, 1000)


def _month_first(match: re.Match[str]) -> list[Piece]:
    pieces = [_month(match), said(match, numbers.ordinal(int(match["day"])), "day")]
    comma = [said(match, ",", "comma")] if match["comma"] else []
    return pieces + ([*comma, _year(match)] if match["year"] else [])


def _day_first(match: re.Match[str]) -> list[Piece]:
    start = match.start()
    article = "" if match.string[max(0, start - 4) : start].lower() == "the " else "the "
    day = said(match, article + numbers.ordinal(int(match["day"])), "day")
    name, start, end = _month(match)
    return [day, (f"of {name}", start, end)] + ([_year(match)] if match["year"] else [])


def _month_and_year(match: re.Match[str]) -> list[Piece]:
    return [_month(match), _year(match)]


def _month(match: re.Match[str]) -> Piece:
    return said(match, MONTH_NAMES[MONTHS[match["month"]]], "month")


def _year(match: re.Match[str]) -> Piece:
    return said(match, numbers.year(int(match["year"])), "year")


def _numeric_date(match: re.Match[str]) -> list[Piece]:
    first, second, year = (int(match[name]) for name in ("first", "second", "year"))
    if len(match["year"]) == 2:
        year += 1900 if year >= 70 else 2000
    month, day = (second, first) if first > 12 else (first, second)
    if month > 12:
        return [said(match, " slash ".join(numbers.whole(part) for part in match[0].split("/")))]
    return [said(match, f"{MONTH_NAMES[month]} {numbers.ordinal(day)} {numbers.year(year)}")]


def _time(match: re.Match[str]) -> list[Piece]:
    hour, minute = int(match["hour"]), int(match["minute"])
    late = f"oh {numbers.ONES[minute]}" if minute < 10 else numbers.cardinal(minute)
    if minute == 0:
        late = "" if match["half"] else "hundred" if hour > 12 else "o'clock"
    seconds = f"and {_count(match['second'], 'second')}" if match["second"] else ""
    words = f"{numbers.cardinal(hour)} {late} {seconds} {_half_day(match)}"
    return [said(match, words), *_end_of(match)]


def _hour(match: re.Match[str]) -> list[Piece]:
    return [said(match, f"{numbers.cardinal(int(match['hour']))} {_half_day(match)}"), *_end_of(match)]


def _half_day(match: re.Match[str]) -> str:
    return f"{match['half'].lower()} m" if match["half"] else ""


def _end_of(match: re.Match[str]) -> list[Piece]:
    """The dot of "p.m." ends a sentence when a new one follows."""
    after = match.string[match.end() : match.end() + 40]
    new = re.match(r"[\"')\]]*(?:$|\s+[\"'(]?(?!Mon|Tue|Wed|Thu|Fri|Sat|Sun|[A-Z]{2})[A-Z])", after)
    return [(".", match.end() - 1, match.end())] if new and match[0].endswith(".") else []


def _phone(match: re.Match[str]) -> list[Piece]:
    start, pieces = match.start(), []
    for group in re.finditer("[0-9]+", match[0]):
        place = (start + group.start(), start + group.end())
        pieces += [(numbers.spelt(group[0]), *place), (",", *place)]
    plus = [("plus", start, start + 1)] if match[0].startswith("+") else []
    return plus + pieces[:-1]


def _money(match: re.Match[str]) -> list[Piece]:
    one, many, cent, cents = CURRENCIES[match["currency"]]
    amount, prefix = match["number"].replace(",", ""), "u s " if match[0].startswith("US") else ""
    groups = match.groupdict()
    if groups.get("magnitude"):
        return [said(match, f"{numbers.number(amount)} {MAGNITUDES[groups['magnitude']]} {prefix}{many}")]
    units, _, hundredths = amount.partition(".")
    if len(hundredths) != 2 or many == "yen":
        return [said(match, f"{numbers.number(amount)} {prefix}{one if amount == '1' else many}")]
    parts = [_count(units, prefix + one, prefix + many)] if int(units or 0) else []
    parts += [_count(hundredths, cent, cents)] if int(hundredths) or not parts else []
    return [said(match, " and ".join(parts))]


def _count(digits: str, one: str, many: str = "") -> str:
    return f"{numbers.cardinal(int(digits))} {one if int(digits) == 1 else many or numbers.plural(one)}"


def _measure(match: re.Match[str]) -> list[Piece]:
    one, _, many = UNITS[match["unit"]].partition("/")
    name = one if match["number"] == "1" else many or numbers.plural(one)
    return [said(match, numbers.number(match["number"]), "number"), said(match, name, "unit")]


def _height(match: re.Match[str]) -> list[Piece]:
    return [said(match, f"{numbers.whole(match['feet'])} foot {numbers.whole(match['inches'])}")]


def _fraction(match: re.Match[str]) -> list[Piece]:
    above, below = int(match["above"]), int(match["below"])
    words = f"{numbers.cardinal(above)} over {numbers.cardinal(below)}"
    if 0 < above < below and below in _DENOMINATORS:
        words = numbers.fraction(above, below)
    part = (_SPOKEN_PAIRS.get(match["pair"], words), match.start("pair"), match.end("pair"))
    return [said(match, numbers.whole(match["whole"]) + " and", "whole"), part] if match["whole"] else [part]


def _ordinal(match: re.Match[str]) -> list[Piece]:
    return [said(match, numbers.ordinal(int(match["number"].replace(",", ""))))]


def _decade(match: re.Match[str]) -> list[Piece]:
    return [said(match, numbers.plural(numbers.year(int(match["decade"]))))]


def _noun_and_roman(match: re.Match[str]) -> list[Piece]:
    value = numbers.roman(match["roman"]) or 0
    return [said(match, match["noun"].lower(), "noun"), said(match, numbers.cardinal(value), "roman")]


def _monarch(match: re.Match[str]) -> list[Piece]:
    place = f"the {numbers.ordinal(numbers.roman(match['roman']) or 0)}{match['of'] or ''}"
    return [said(match, match["name"].lower(), "name"), (place, match.start("roman"), match.end())]


def _roman(match: re.Match[str]) -> list[Piece]:
    return [said(match, numbers.cardinal(numbers.roman(match[0]) or 0))]


def _number(match: re.Match[str]) -> list[Piece]:
    digits = match[0]
    bare_year = (
        len(digits) == 4 and digits.isdigit() and (1100 <= int(digits) < 2000 or 2010 <= int(digits) < 2100)
    )
    return [said(match, numbers.year(int(digits)) if bare_year else numbers.number(digits))]


def _digits(match: re.Match[str]) -> list[Piece]:
    return [said(match, numbers.spelt(match[0]))]


def _operator(match: re.Match[str]) -> list[Piece]:
    return [said(match, ARITHMETIC[match[0].strip()])]


_PAIR = r"(?P<above>[0-9]{1,3})[/⁄](?P<below>[1-9][0-9]{0,3})"
_MAGNITUDE = rf"(?P<magnitude>{any_of(MAGNITUDES)})(?![A-Za-z0-9])"
_LOOSE_UNITS = [unit for unit in UNITS if unit not in TIGHT_UNITS]
RULES: list[Rule] = [
    (rf"{_MONTH}\s{_DAY}(?:(?P<comma>,)?\s{_YEAR})?(?![0-9A-Za-z]|[,.:/][0-9])", _month_first),
    (rf"{_DAY}\s(?:of\s)?{_MONTH}(?:,?\s{_YEAR})?", _day_first),
    (rf"{_MONTH}\s{_YEAR}", _month_and_year),
    (
        r"(?P<year>[12][0-9]{3})-(?P<first>0[1-9]|1[0-2])-(?P<second>0[1-9]|[12][0-9]|3[01])(?![0-9])",
        _numeric_date,
    ),
    (
        r"(?P<first>0?[1-9]|[12][0-9]|3[01])/(?P<second>0?[1-9]|[12][0-9]|3[01])/(?P<year>[12][0-9]{3}|[0-9]{2})(?![0-9/])",
        _numeric_date,
    ),
    (
        rf"(?P<hour>[01]?[0-9]|2[0-3]):(?P<minute>[0-5][0-9])(?::(?P<second>[0-5][0-9]))?(?![0-9:])(?:\s?{_HALF_DAY})?",
        _time,
    ),
    (rf"(?P<hour>1[0-2]|0?[1-9])\s?{_HALF_DAY}", _hour),
    (r"\+[0-9]{1,3}(?:[ .-]\(?[0-9]{1,4}\)?){2,5}(?![0-9])|\+[0-9]{8,15}(?![0-9])", _phone),
    (r"(?:1[ .-])?(?:\([0-9]{3}\) ?|[0-9]{3}[ .-])[0-9]{3}[.-][0-9]{4}(?![0-9])", _phone),
    (
        r"[2-9][0-9]{2}-(?![0-9]{2}00)[0-9]{4}(?![0-9-])|0[0-9]{2,4} [0-9]{3,4}(?: [0-9]{3,4})?(?![0-9])",
        _phone,
    ),
    (rf"(?:US)?(?P<currency>[$£€¥₹])\s?(?P<number>{_NUMBER})(?:\s?{_MAGNITUDE})?", _money),
    (rf"(?P<number>{_NUMBER})\s?(?P<currency>[£€])(?![0-9])", _money),
    (rf"(?P<number>{_NUMBER})\s?(?P<unit>{any_of(_LOOSE_UNITS)})(?![A-Za-z0-9/])", _measure),
    (r"'?(?P<decade>(?:1[1-9]|20)[0-9]0|[2-9]0)'?s(?![A-Za-z])", _decade),
    (rf"(?P<number>{_NUMBER})(?P<unit>{any_of(TIGHT_UNITS)})(?![A-Za-z0-9/])", _measure),
    (r"(?P<feet>[1-9])'\s?(?P<inches>1[01]|[0-9])\"", _height),
    (rf"(?:(?P<whole>[0-9]{{1,4}})[ -])?(?P<pair>{_PAIR})(?![0-9/])", _fraction),
    (rf"(?P<number>{_WHOLE})(?:st|nd|rd|th)(?![A-Za-z])", _ordinal),
    (rf"(?P<noun>{NUMBERED_NOUNS})\s{_ROMAN}(?!')", _noun_and_roman),
    (rf"(?P<name>{MONARCHS})\s(?!I(?![IVX])){_ROMAN}(?P<of>'s)?", _monarch),
    (r"(?:III?|VIII?|IX|XIII?|XIV|XVIII?|XVI|XIX)(?![A-Za-z0-9'])", _roman),
    (r"[0-9]{1,15}(?:\.[0-9]{1,15}){2,8}(?![0-9])", _number),
    (r"(?<=[0-9])[*<>^x](?=[0-9])", _operator),
    (r"(?<=[0-9]) [*^x-] (?=[0-9])|(?<=[A-Za-z0-9]) [<>] (?=[A-Za-z0-9])", _operator),
    (r"(?<=[0-9]) ?– ?(?=[$£€¥]?[0-9])|(?<=[0-9%])-(?=[$£€¥]?[0-9])|(?<=[0-9]):(?=[0-9])", always("to")),
    (r"(?<![0-9A-Za-z)])-(?=[$£€¥]?\.?[0-9])|−", always("minus")),
    (_NUMBER, _number),
    (r"[0-9]+", _digits),
]
