"""What Italian says for numbers, signs and abbreviations. Data, and the few rules of its own."""

import re

from llasa.text import numbers
from llasa.text.continental import Tongue, spelt_out
from llasa.text.quantities import Piece, Rule, said
from llasa.text.tables import table

LETTERS = "àèéìòù"
_MONTHS = "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre"
_NAMES = (
    "a, b bi, c ci, d di, e, f effe, g gi, h acca, i, j i lunga, k cappa, l elle, m emme, n enne, o, p pi, "
    "q cu, r erre, s esse, t ti, u, v vu, w vu doppia, x ics, y ipsilon, z zeta"
)


def cardinal(number: int) -> str:
    """Return e.g. "ventitré"; num2words leaves out the accent of longer numbers."""
    return re.sub(r"(?<=\w)tre\b", "tré", spelt_out("it", number))


def ordinal(number: int, before: str) -> str:
    """Return the day of a month, or the masculine ordinal; only the first of a month is one."""
    if before.endswith(" day") and number != 1:
        return cardinal(number)
    return spelt_out("it", number, "ordinal")


def _marked(match: re.Match[str]) -> list[Piece]:
    spoken = ordinal(int(match["number"]), "")
    return [said(match, spoken[:-1] + "a" if match["sign"] == "ª" else spoken)]


def _century(match: re.Match[str]) -> list[Piece]:
    return [said(match, ordinal(numbers.roman(match[0]) or 0, ""))]


def time(hour: int, minute: int, second: int | None) -> str:
    """Return e.g. "quattordici e trenta"."""
    hours = "una" if hour == 1 else cardinal(hour)
    minutes = f" e {cardinal(minute)}" if minute else ""
    return hours + minutes + (f" e {cardinal(second)} secondi" if second else "")


def decimals(digits: str) -> str:
    """Return the digits after the comma: as one number if they are few and the first is not zero."""
    if digits[0] != "0" and len(digits) <= 2:
        return cardinal(int(digits))
    return " ".join(cardinal(int(digit)) for digit in digits)


def fraction(above: int, below: int) -> str:
    """Return e.g. "tre quarti"."""
    if not 1 < below <= 20 or not above:
        return f"{cardinal(above)} su {cardinal(below)}"
    part = "mezzo" if below == 2 else ordinal(below, "")
    return f"un {part}" if above == 1 else f"{cardinal(above)} {part[:-1]}i"


def _clock(match: re.Match[str]) -> list[Piece]:
    return [said(match, time(int(match["hour"]), int(match["minute"]), None))]


_RULES: tuple[Rule, ...] = (
    (r"(?P<number>[1-9][0-9]{0,3})(?P<sign>[ºª])", _marked),
    (r"(?P<number>[1-9]|1[0-9]|20)(?P<sign>°)(?=\s+[A-Za-z])(?!\s[CF](?![A-Za-z]))", _marked),
    (
        r"(?:(?<=\bore )|(?<=alle )|(?<=lle ))(?P<hour>[01]?[0-9]|2[0-4])\.(?P<minute>[0-5][0-9])(?![0-9.])",
        _clock,
    ),
    (r"(?<![A-Za-z])(?=[IVX]{2})X{0,3}(?:IX|IV|V?I{0,3})(?![A-Za-z0-9'])", _century),
)

TONGUE = Tongue(
    code="it",
    letters=LETTERS,
    months=tuple(_MONTHS.split()),
    short_months=tuple(month[:3] for month in _MONTHS.split()),
    year="cardinal",
    currencies={
        "€": ("un euro/euro", "un centesimo/centesimi"),
        "EUR": ("un euro/euro", "un centesimo/centesimi"),
        "$": ("un dollaro/dollari", "un centesimo/centesimi"),
        "£": ("una sterlina/sterline", "un penny/pence"),
        "¥": ("uno yen/yen", "un sen/sen"),
    },
    units=table(
        "km/h un chilometro orario/chilometri orari, km un chilometro/chilometri, m un metro/metri, cm un "
        "centimetro/centimetri, mm un millimetro/millimetri, km² un chilometro quadrato/chilometri "
        "quadrati, m² un metro quadrato/metri quadrati, m³ un metro cubo/metri cubi, kg un chilo/chili, g "
        "un grammo/grammi, mg un milligrammo/milligrammi, l un litro/litri, ml un millilitro/millilitri, °C "
        "un grado/gradi, ° un grado/gradi, % uno per cento/per cento, ‰ uno per mille/per mille, min un "
        "minuto/minuti, h un'ora/ore, s un secondo/secondi, kW un chilowatt/chilowatt, W un watt/watt, V un "
        "volt/volt, Hz un hertz/hertz, GB un gigabyte/gigabyte, MB un megabyte/megabyte"
    ),
    symbols=table(
        "& e, @ chiocciola, % per cento, + più, = uguale, / barra, # cancelletto, \\ barra inversa, ° "
        "gradi, × per, ÷ diviso, ± più o meno, § paragrafo, € euro, $ dollari, £ sterline, ² al quadrato, ³ "
        "al cubo, < minore di, > maggiore di, º o, ª a"
    ),
    in_addresses=table(
        "@ chiocciola, . punto, / barra, - trattino, _ trattino basso, : due punti, ? punto di domanda, = "
        "uguale, & e, # cancelletto, % per cento, + più, ~ tilde"
    ),
    titles=table(
        "Sig. signor, Sig.ra signora, Sig.na signorina, Dott. dottor, Dr. dottor, Dott.ssa dottoressa, "
        "Dr.ssa dottoressa, Prof. professor, Prof.ssa professoressa, Avv. avvocato, Ing. ingegner, sig. "
        "signor, sig.ra signora, dott. dottor, dott.ssa dottoressa, prof. professor, p.es. per esempio, "
        "ad.es. ad esempio, es. esempio, cfr. confronta, ca. circa, S. san"
    ),
    closing=table(
        "ecc. eccetera, etc. eccetera, a.C. avanti cristo, d.C. dopo cristo, S.p.A. esse pi a, SpA esse pi "
        "a, S.r.l. esse erre elle, tel. telefono"
    ),
    numbered=table(
        "pag. pagina, pagg. pagine, p. pagina, pp. pagine, n. numero, n° numero, nº numero, N. numero, art. "
        "articolo, cap. capitolo, vol. volume, fig. figura"
    ),
    names={name[0]: name.split(maxsplit=1)[-1] for name in _NAMES.split(", ")} | {c: c for c in LETTERS},
    initialisms=frozenset({"UE", "IA", "ASL"}),
    words={
        ",": "virgola",
        ".": "punto",
        "&": "e",
        "to": "a",
        "minus": "meno",
        "times": "per",
        "clock": "(?!)",
    },
    ordinal=ordinal,
    time=time,
    decimals=decimals,
    fraction=fraction,
    own_rules=_RULES,
)
