"""Rules of normalisation for languages that write 1.234,56, 3.5.2024 and 5 EUR: German and Italian.

The same kind of rules as in `quantities` and `writing`; what differs between the languages is a `Tongue`.
Numbers are spelt out by num2words. Must not know: which languages there are.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from llasa.errors import MissingExtra
from llasa.text import numbers
from llasa.text.quantities import Piece, Rule, always, any_of, said
from llasa.text.writing import ADDRESS_RULES, SILENT_SIGNS, dots, marks, silent, space


@dataclass(frozen=True)
class Tongue:
    """What a language says. Tables map what is written to what is said; what is counted, to "a thing/things".

    code: num2words' name of it. letters: small ones beyond a to z. months: [12]. year: how a bare year in
    [1100, 1999] is said, a kind of num2words. one: the number 1 before a noun, by gender: "" is the default.
    currencies: one/many and hundredth/hundredths. titles: abbreviations that something follows; closing:
    those whose dot may also end a sentence; numbered: those that stand before a number. names: of letters.
    initialisms: spelt although they have vowels. words: by sign, and `clock`, a pattern. ordinal: of a number
    and the word before it, with " day" after it in dates. time: of hours, minutes, seconds. decimals: of the
    digits after the comma. fraction: of above and below. own_rules: tried after the addresses.
    """

    code: str
    letters: str
    months: tuple[str, ...]
    short_months: tuple[str, ...]
    year: str
    currencies: Mapping[str, tuple[str, str]]
    units: Mapping[str, str]
    symbols: Mapping[str, str]
    in_addresses: Mapping[str, str]
    titles: Mapping[str, str]
    closing: Mapping[str, str]
    numbered: Mapping[str, str]
    names: Mapping[str, str]
    initialisms: frozenset[str]
    words: Mapping[str, str]
    ordinal: Callable[[int, str], str]
    time: Callable[[int, int, int | None], str]
    decimals: Callable[[str], str]
    fraction: Callable[[int, int], str]
    own_rules: tuple[Rule, ...] = ()


def spelt_out(code: str, number: int, kind: str = "cardinal") -> str:
    """Return the words of a number in a language of num2words, in small letters.

    Raises:
        MissingExtra: num2words is not installed.
    """
    try:
        from num2words import num2words
    except ImportError as error:
        raise MissingExtra("Reading numbers of German or Italian", "num2words", "languages") from error
    return str(num2words(number, lang=code, to=kind)).lower()


def counted(tongue: Tongue, number: str, name: str) -> str:
    """Return a written number and what it counts, such as "un metro/metri"."""
    one, _, many = name.partition("/")
    return one if number == "1" else f"{spoken_number(tongue, number)} {many}"


def spoken_number(tongue: Tongue, written: str) -> str:
    """Return the words of digits with optional thousands dots and a decimal comma, e.g. "1.234,5"."""
    head, _, decimals = written.replace(".", "").partition(",")
    spoken = whole(tongue, head)
    return f"{spoken} {tongue.words[',']} {tongue.decimals(decimals)}" if decimals else spoken


def whole(tongue: Tongue, digits: str) -> str:
    """Return a run of digits as a number, or one by one when it starts with zero or is very long."""
    if len(digits) > numbers.MOST_DIGITS or (len(digits) > 1 and digits[0] == "0"):
        return " ".join(spelt_out(tongue.code, int(digit)) for digit in digits)
    return spelt_out(tongue.code, int(digits))


def _year(tongue: Tongue, digits: str) -> str:
    century = len(digits) == 4 and 1100 <= int(digits) < 2000
    return spelt_out(tongue.code, int(digits), tongue.year) if century else whole(tongue, digits)


def word_before(match: re.Match[str]) -> str:
    """Return the word before a match, in small letters."""
    return (re.findall(r"\w+", match.string[max(0, match.start() - 20) : match.start()]) or [""])[-1].lower()


def _number(tongue: Tongue, match: re.Match[str]) -> list[Piece]:
    digits = match[0]
    return [said(match, _year(tongue, digits) if digits.isdigit() else spoken_number(tongue, digits))]


def _digits(tongue: Tongue, match: re.Match[str]) -> list[Piece]:
    return [said(match, " ".join(spelt_out(tongue.code, int(d)) for d in match[0] if d.isdigit()))]


def _digit_run(tongue: Tongue, digits: str) -> str:
    return whole(tongue, digits) if len(digits) < 3 else " ".join(whole(tongue, digit) for digit in digits)


def _versions(tongue: Tongue, match: re.Match[str]) -> list[Piece]:
    parts = (_digit_run(tongue, part) for part in match[0].split("."))
    return [said(match, f" {tongue.words['.']} ".join(parts))]


def _ordinal(tongue: Tongue, match: re.Match[str]) -> list[Piece]:
    return [said(match, tongue.ordinal(int(match["number"]), word_before(match)))]


def _written_date(tongue: Tongue, match: re.Match[str]) -> list[Piece]:
    day = tongue.ordinal(int(match["number"]), f"{word_before(match)} day")
    names = {name: full for full, name in zip(tongue.months, tongue.short_months, strict=True)}
    month = match["month"].lower()
    pieces = [said(match, day, "number"), said(match, names.get(month.rstrip("."), month), "month")]
    return pieces + ([said(match, _year(tongue, match["year"]), "year")] if match["year"] else [])


def _numeric_date(tongue: Tongue, match: re.Match[str]) -> list[Piece]:
    day, month = int(match["day"]), int(match["month"])
    year = _year(tongue, match["year"]) if match["year"] else ""
    return [
        said(match, f"{tongue.ordinal(day, word_before(match) + ' day')} {tongue.months[month - 1]} {year}")
    ]


def _time(tongue: Tongue, match: re.Match[str]) -> list[Piece]:
    second = match.groupdict().get("second")
    return [
        said(match, tongue.time(int(match["hour"]), int(match["minute"]), int(second) if second else None))
    ]


def _money(tongue: Tongue, match: re.Match[str]) -> list[Piece]:
    unit, part = tongue.currencies[match["currency"]]
    euros, _, cents = match["number"].replace(".", "").partition(",")
    if len(cents) != 2:
        return [said(match, counted(tongue, match["number"], unit))]
    spoken = counted(tongue, euros, unit) if int(euros) or not int(cents) else ""
    rest = counted(tongue, cents.lstrip("0"), part) if int(cents) else ""
    return [said(match, f" {tongue.words['&']} ".join(filter(None, (spoken, rest))))]


def _measure(tongue: Tongue, match: re.Match[str]) -> list[Piece]:
    name = counted(tongue, match["number"], tongue.units[match["unit"]])
    return [said(match, name)]


def _fraction(tongue: Tongue, match: re.Match[str]) -> list[Piece]:
    return [said(match, tongue.fraction(int(match["above"]), int(match["below"])))]


def _abbreviation(table: Mapping[str, str], match: re.Match[str]) -> list[Piece]:
    return [said(match, table[re.sub(r"\s", "", match[0])])]


def _closing(table: Mapping[str, str], match: re.Match[str]) -> list[Piece]:
    after = match.string[match.end() : match.end() + 3].lstrip("\"')")
    ends = not after or re.match(r"\s+[\"'(]?[^\W\da-z_]", after) or not after.strip()
    stop = [(".", match.end() - 1, match.end())] if ends and match[0].endswith(".") else []
    return [*_abbreviation(table, match), *stop]


def _word(tongue: Tongue, match: re.Match[str]) -> list[Piece]:
    word = match[0]
    plain = unicodedata.normalize("NFD", word).upper()
    vowels = re.search("[AEIOUY]", plain)
    if word.isupper() and len(word) > 1 and (not vowels or word in tongue.initialisms):
        return [said(match, " ".join(tongue.names[letter] for letter in word.lower() if letter.isalpha()))]
    return [said(match, word.lower().strip("'"))]


def _address(tongue: Tongue, match: re.Match[str]) -> list[Piece]:
    text = match[0].rstrip(".,;:!?')")
    body = re.sub(r"^https?://", "", text).rstrip("/")
    parts = (_address_part(tongue, part) for part in re.findall(r"[A-Za-z]+|[0-9]+|.", body))
    tail = match[0][len(text) :].replace("'", "")
    stop = [(tail[0] if tail[0] in ".?!," else ",", match.end() - 1, match.end())] if tail else []
    return [(" ".join(parts), match.start(), match.start() + len(text)), *stop]


def _address_part(tongue: Tongue, part: str) -> str:
    if part.isdigit():
        return whole(tongue, part)
    if part.isalpha() and re.search("[aeiouy]", part.lower()):
        return part.lower()
    return (
        " ".join(tongue.names[c] for c in part.lower())
        if part.isalpha()
        else tongue.in_addresses.get(part, "")
    )


def _dotted(abbreviation: str) -> str:
    """Return a pattern of an abbreviation that also fits spaces after its inner dots: "z.B." and "z. B."."""
    return r"\.\s?".join(map(re.escape, abbreviation.rstrip(".").split("."))) + (
        r"\." if abbreviation.endswith(".") else ""
    )


def _any_dotted(table: Mapping[str, str]) -> str:
    return "|".join(_dotted(one) for one in sorted(table, key=len, reverse=True))


def rules(tongue: Tongue) -> list[Rule]:
    """Return the rules of a language, in the order in which they are tried."""
    return [*_address_rules(tongue), *tongue.own_rules, *_number_rules(tongue), *_word_rules(tongue), *_SIGNS]


def _address_rules(tongue: Tongue) -> list[Rule]:
    return [(pattern, partial(_address, tongue)) for pattern, _ in ADDRESS_RULES]


def _number_rules(tongue: Tongue) -> list[Rule]:
    letter = f"A-Za-z{tongue.letters}{tongue.letters.upper().replace('SS', '')}"
    number = r"(?P<number>(?:[0-9]{1,3}(?:\.[0-9]{3}){1,5}|[0-9]{1,15})(?:,[0-9]{1,15})?)(?![0-9])"
    money = any_of(tongue.currencies)
    months = any_of([*tongue.months, *tongue.short_months])
    day = r"0?[1-9]|[12][0-9]|3[01]"
    date = rf"(?P<day>{day})[./](?P<month>0?[1-9]|1[0-2])[./](?P<year>[0-9]{{4}}|[0-9]{{2}})"
    clock = r"(?P<hour>[01]?[0-9]|2[0-4])"
    words = tongue.words
    return [
        (
            rf"(?P<number>{day})[.°º]?\s(?P<month>(?i:{months}))(?![{letter}])(?:\.(?=\s?[0-9a-z]))?(?:\s(?P<year>[12][0-9]{{3}})(?![0-9]))?",
            partial(_written_date, tongue),
        ),
        (rf"{date}(?![0-9])", partial(_numeric_date, tongue)),
        (
            r"(?P<year>[12][0-9]{3})-(?P<month>0[1-9]|1[0-2])-(?P<day>0[1-9]|[12][0-9]|3[01])(?![0-9])",
            partial(_numeric_date, tongue),
        ),
        (
            rf"{clock}:(?P<minute>[0-5][0-9])(?::(?P<second>[0-5][0-9]))?(?![0-9:])(?:\s?{words['clock']})?",
            partial(_time, tongue),
        ),
        (
            r"\+[0-9]{1,3}(?:[ ./-]\(?[0-9]{1,9}\)?){1,6}(?![0-9])|\+[0-9]{8,15}(?![0-9])",
            partial(_phone, tongue),
        ),
        (r"0[0-9]{1,4}[ /-][0-9]{3,9}(?:[ -][0-9]{2,6}){0,3}(?![0-9])", partial(_digits, tongue)),
        (rf"{number}\s?(?P<currency>{money})(?![{letter}])", partial(_money, tongue)),
        (rf"(?P<currency>{money})\s?{number}", partial(_money, tongue)),
        (rf"{number}\s?(?P<unit>{any_of(tongue.units)})(?![{letter}0-9/])", partial(_measure, tongue)),
        (r"(?P<above>[0-9]{1,3})[/⁄](?P<below>[1-9][0-9]{0,2})(?![0-9/])", partial(_fraction, tongue)),
        (r"[0-9]{1,15}(?:\.(?![0-9]{3}(?![0-9]))[0-9]{1,15}){1,8}(?![0-9])", partial(_versions, tongue)),
        (r"(?<=[0-9%])\s?[-–]\s?(?=[0-9])", always(words["to"])),
        (r"(?<![0-9A-Za-z)])[-−](?=[0-9])|−", always(words["minus"])),
        (r"(?<=[0-9])\s?[x*]\s?(?=[0-9])", always(words["times"])),
        (rf"{number}", partial(_number, tongue)),
        (r"[0-9]+", partial(_digits, tongue)),
    ]


def _phone(tongue: Tongue, match: re.Match[str]) -> list[Piece]:
    plus = (tongue.symbols["+"], match.start(), match.start() + 1)
    return [plus, *_digits(tongue, match)]


def _word_rules(tongue: Tongue) -> list[Rule]:
    letter = f"A-Za-z{tongue.letters}{tongue.letters.upper().replace('SS', '')}"
    start = rf"(?<![{letter}])"
    symbols = re.escape("".join(tongue.symbols))
    return [
        (rf"{start}(?:{_any_dotted(tongue.numbered)})(?=\s?[0-9])", partial(_abbreviation, tongue.numbered)),
        (rf"{start}(?:{_any_dotted(tongue.closing)})(?![{letter}])", partial(_closing, tongue.closing)),
        (rf"{start}(?:{_any_dotted(tongue.titles)})(?![{letter}])", partial(_abbreviation, tongue.titles)),
        (rf"[{letter}]+(?:'[{letter}]+)*'?(?![{letter}])", partial(_word, tongue)),
        (rf"[{symbols}]", lambda match: [said(match, tongue.symbols[match[0]])]),
    ]


_SIGNS: list[Rule] = [
    (r"\s+", space),
    (r"[.…]{2,}(?![?!])", dots),
    (r"[.,;:?!…]+", marks),
    (r"[—―]|--+|(?<=\s)[-–](?=\s)|[()]", always(",")),
    (SILENT_SIGNS, silent),
]
