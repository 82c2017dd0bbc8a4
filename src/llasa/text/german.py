"""What German says for numbers, signs and abbreviations. Data, and the few rules of its own."""

import re

from llasa.text import numbers
from llasa.text.continental import Tongue, spelt_out, word_before
from llasa.text.quantities import Piece, Rule, said
from llasa.text.tables import table, word_set

LETTERS = "äöüß"
_MONTHS = "januar februar märz april mai juni juli august september oktober november dezember"
_SHORT = "jan feb mär apr mai jun jul aug sep okt nov dez"
_WEAK = word_set("am im vom zum zur beim dem den des bis seit ab ihrem seinem ihren seinen unserem unseren")
_NAMES = (
    "a, b be, c ce, d de, e, f eff, g ge, h ha, i, j jott, k ka, l ell, m emm, n enn, o, p pe, q ku, r err, "
    "s ess, t te, u, v vau, w we, x iks, y ypsilon, z zett, ä, ö, ü, ß eszett"
)


def cardinal(number: int) -> str:
    """Return e.g. "dreiundzwanzig"."""
    return spelt_out("de", number)


def ordinal(number: int, before: str) -> str:
    """Return e.g. "dritte" with the ending that the word before it asks for."""
    stem = spelt_out("de", number, "ordinal")
    word, _, date = before.partition(" ")
    if word in _WEAK:
        return stem + "n"
    return stem + "r" if date and word not in ("der", "die", "das") else stem


def _roman(match: re.Match[str]) -> list[Piece]:
    return [said(match, f"der {ordinal(numbers.roman(match['roman']) or 0, 'der')}")]


def _plain_ordinal(match: re.Match[str]) -> list[Piece]:
    return [said(match, ordinal(int(match["number"]), word_before(match)))]


def _time(match: re.Match[str]) -> list[Piece]:
    return [said(match, time(int(match["hour"]), int(match["minute"]), None))]


def time(hour: int, minute: int, second: int | None) -> str:
    """Return e.g. "vierzehn uhr dreißig"."""
    minutes = f" {cardinal(minute)}" if minute else ""
    hours = "ein" if hour == 1 else cardinal(hour)
    return f"{hours} uhr{minutes}" + (f" und {cardinal(second)} sekunden" if second else "")


def decimals(digits: str) -> str:
    """Return the digits after the comma, one by one."""
    return " ".join(cardinal(int(digit)) for digit in digits)


def fraction(above: int, below: int) -> str:
    """Return e.g. "drei viertel"."""
    if not 1 < below <= 20 or not above:
        return f"{cardinal(above)} durch {cardinal(below)}"
    part = (
        "halb"
        if below == 2 and above == 1
        else "halbe"
        if below == 2
        else spelt_out("de", below, "ordinal") + "l"
    )
    return f"{'ein' if above == 1 else cardinal(above)} {part}"


_ARTICLES = ("der", "die", "das", "den", "dem", "des", "am", "im", "vom", "zum", "beim", "zur")
_AFTER_ARTICLE = "|".join(rf"(?<=\b{word} )" for word in _ARTICLES)
_NO_MONTH = rf"(?!\s(?i:{_MONTHS.replace(' ', '|')}))"
_RULES: tuple[Rule, ...] = (
    (r"(?<=[a-zäöüß] )(?P<roman>(?=[IVX])X{0,3}(?:IX|IV|V?I{0,3}))\.", _roman),
    (r"(?P<hour>[01]?[0-9]|2[0-4])\.(?P<minute>[0-5][0-9])\s?Uhr(?![a-z])", _time),
    (r"(?P<hour>1)(?P<minute>)\s(?P<noun>Uhr)(?![a-z])", lambda match: [said(match, "ein uhr")]),
    (r"[A-ZÄÖÜ][a-zäöüß]{1,30}str\.(?=\s)", lambda match: [said(match, f"{match[0][:-1].lower()}aße")]),
    (rf"(?i:{_AFTER_ARTICLE})(?P<number>[1-9][0-9]{{0,3}})\.(?=\s[A-ZÄÖÜ]){_NO_MONTH}", _plain_ordinal),
    (r"(?<![0-9.,])(?P<number>[1-9][0-9]{0,3})\.(?=\s[a-zäöüß])", _plain_ordinal),
)

TONGUE = Tongue(
    code="de",
    letters=LETTERS,
    months=tuple(_MONTHS.split()),
    short_months=tuple(_SHORT.split()),
    year="year",
    currencies={
        "€": ("ein euro/euro", "ein cent/cent"),
        "EUR": ("ein euro/euro", "ein cent/cent"),
        "$": ("ein dollar/dollar", "ein cent/cent"),
        "£": ("ein pfund/pfund", "ein penny/pence"),
        "¥": ("ein yen/yen", "ein sen/sen"),
        "CHF": ("ein franken/franken", "ein rappen/rappen"),
    },
    units=table(
        "km/h ein kilometer pro stunde/kilometer pro stunde, km ein kilometer/kilometer, m ein meter/meter, "
        "cm ein zentimeter/zentimeter, mm ein millimeter/millimeter, km² ein "
        "quadratkilometer/quadratkilometer, m² ein quadratmeter/quadratmeter, m³ ein kubikmeter/kubikmeter, "
        "kg ein kilogramm/kilogramm, g ein gramm/gramm, mg ein milligramm/milligramm, l ein liter/liter, ml "
        "ein milliliter/milliliter, °C ein grad celsius/grad celsius, ° ein grad/grad, % ein "
        "prozent/prozent, ‰ ein promille/promille, min eine minute/minuten, Min. eine minute/minuten, h "
        "eine stunde/stunden, Std. eine stunde/stunden, s eine sekunde/sekunden, Sek. eine "
        "sekunde/sekunden, kW ein kilowatt/kilowatt, kWh eine kilowattstunde/kilowattstunden, W ein "
        "watt/watt, V ein volt/volt, Hz ein hertz/hertz, GB ein gigabyte/gigabyte, MB ein "
        "megabyte/megabyte, Mio. eine million/millionen, Mrd. eine milliarde/milliarden"
    ),
    symbols=table(
        "& und, @ at, % prozent, + plus, = gleich, / schrägstrich, # raute, \\ rückstrich, ° grad, × mal, ÷ "
        "geteilt durch, ± plus minus, § paragraf, € euro, $ dollar, £ pfund, ² quadrat, ³ hoch drei, < "
        "kleiner als, > größer als"
    ),
    in_addresses=table(
        "@ at, . punkt, / schrägstrich, - bindestrich, _ unterstrich, : doppelpunkt, ? fragezeichen, = "
        "gleich, & und, # raute, % prozent, + plus, ~ tilde"
    ),
    titles=table(
        "Dr. doktor, Prof. professor, Hr. herr, Hrn. herrn, Fr. frau, Frl. fräulein, St. sankt, z.B. zum "
        "beispiel, d.h. das heißt, u.a. unter anderem, bzw. beziehungsweise, ca. zirka, evtl. eventuell, "
        "ggf. gegebenenfalls, inkl. inklusive, exkl. exklusive, vgl. vergleiche, sog. sogenannte, i.d.R. in "
        "der regel, u.U. unter umständen, z.T. zum teil, v.a. vor allem, max. maximal, min. minimal, mind. "
        "mindestens, geb. geboren, Tel. telefon"
    ),
    closing=table(
        "usw. und so weiter, etc. et cetera, v.Chr. vor christus, n.Chr. nach christus, o.Ä. oder "
        "ähnliches, Mio. millionen, Mrd. milliarden, Jh. jahrhundert, Str. straße, GmbH ge em be ha, MwSt. "
        "mehrwertsteuer"
    ),
    numbered=table("Nr. nummer, S. seite, Abb. abbildung, Kap. kapitel, Bd. band, Art. artikel, Abs. absatz"),
    names={name[0]: name.split(maxsplit=1)[-1] for name in _NAMES.split(", ")},
    initialisms=frozenset({"EU", "USA", "AG", "EDV", "IT", "ADAC", "UKW", "BIP"}),
    words={
        ",": "komma",
        ".": "punkt",
        "&": "und",
        "to": "bis",
        "minus": "minus",
        "times": "mal",
        "clock": "Uhr",
    },
    ordinal=ordinal,
    time=time,
    decimals=decimals,
    fraction=fraction,
    own_rules=_RULES,
)
