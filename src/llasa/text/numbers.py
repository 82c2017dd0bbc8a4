"""Digits -> English words. Knows numbers only: no symbols, units or dates."""

import re

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
ONES = tuple(_ONES.split(" "))
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
MOST_DIGITS = 15
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
}
_ORDINALS |= {"twelve": "twelfth"}
_ROMAN = re.compile("M{0,3}(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})")
_ROMAN_VALUES = {"M": 1000, "D": 500, "C": 100, "L": 50, "X": 10, "V": 5, "I": 1}


def cardinal(number: int) -> str:
    """Return e.g. "one thousand two hundred thirty four" of a number in [0, 10**15)."""
    for scale, name in SCALES:
        if number >= scale:
            rest = number % scale
            return f"{cardinal(number // scale)} {name}" + (f" {cardinal(rest)}" if rest else "")
    if number < 20:
        return ONES[number]
    return TENS[number // 10] + (f" {ONES[number % 10]}" if number % 10 else "")


def ordinal(number: int) -> str:
    """Return e.g. "twenty first" of a number in [0, 10**15)."""
    *head, last = cardinal(number).split(" ")
    last = _ORDINALS.get(last) or (
        last[:-1] + "ieth" if last.endswith("y") else last.removesuffix("e") + "th"
    )
    return " ".join([*head, "eighth" if last == "eightth" else last])


def plural(words: str) -> str:
    """Return the words with the last one in the plural, e.g. "nineteen eighties"."""
    if words.endswith("y"):
        return words[:-1] + "ies"
    return words + ("es" if words.endswith(("x", "s")) else "s")


def spelt(digits: str) -> str:
    """Return the digits one by one, e.g. "zero zero seven"."""
    return " ".join(ONES[int(digit)] for digit in digits)


def whole(digits: str) -> str:
    """Return a run of digits as a number, or one by one when it starts with zero or is very long."""
    if len(digits) > MOST_DIGITS or (len(digits) > 1 and digits[0] == "0"):
        return spelt(digits)
    return cardinal(int(digits))


def number(written: str) -> str:
    """Return the words of digits with optional thousands commas and decimals, e.g. "1,234.5" or ".5"."""
    head, *decimals = written.replace(",", "").split(".")
    start = [whole(head)] if head else []
    if len(decimals) > 1:
        return " point ".join([*start, *(whole(part) for part in decimals)])
    return " ".join([*start, *(f"point {spelt(part)}" for part in decimals)])


def year(number: int) -> str:
    """Return a year the way it is said: "nineteen oh five", "two thousand one", "twenty twenty"."""
    century, rest = divmod(number, 100)
    if not 1000 <= number < 10000 or (century % 10 == 0 and rest < 10):
        return cardinal(number)
    tail = "hundred" if rest == 0 else f"oh {ONES[rest]}" if rest < 10 else cardinal(rest)
    return f"{cardinal(century)} {tail}"


def fraction(numerator: int, denominator: int) -> str:
    """Return e.g. "three quarters", "one half" or "two thirds"."""
    name = {2: "half", 4: "quarter"}.get(denominator) or ordinal(denominator)
    plurals = {"half": "halves"}
    return f"{cardinal(numerator)} {name if numerator == 1 else plurals.get(name) or plural(name)}"


def roman(numeral: str) -> int | None:
    """Return the value of a canonical upper-case Roman numeral below 4,000, else nothing."""
    if not numeral or not _ROMAN.fullmatch(numeral):
        return None
    values = [_ROMAN_VALUES[letter] for letter in numeral]
    return sum(-v if v < after else v for v, after in zip(values, [*values[1:], 0], strict=True))
