"""Rules of normalisation for Chinese: numbers, dates, times, money and units as characters.

Latin words in it are read as English ones. Numbers are spelt out by cn2an. The text arrives with full-width
signs already folded to plain ones.
"""

import re

from llasa.errors import MissingExtra
from llasa.text import numbers, writing
from llasa.text.quantities import Piece, Rule, always, any_of, said
from llasa.text.tables import table

CHARACTER = "\u3005\u3007\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_DIGITS = "零一二三四五六七八九"
_CURRENCIES = table("¥ 元, $ 美元, € 欧元, £ 英镑, ₹ 卢比")
_UNITS = table(
    "km/h 公里每小时, km² 平方公里, km 公里, m² 平方米, m³ 立方米, m 米, cm 厘米, mm 毫米, "
    "kg 公斤, g 克, mg 毫克, ml 毫升, mL 毫升, L 升, l 升, °C 摄氏度, °F 华氏度, ° 度, kW 千瓦, "
    "W 瓦, V 伏, Hz 赫兹, GB 吉字节, MB 兆字节, min 分钟, h 小时, s 秒"
)
_SYMBOLS = table(
    "& 和, + 加, = 等于, × 乘以, ÷ 除以, ± 正负, ° 度, % 百分号, < 小于, > 大于, @ at, # 井号, / 斜杠"
)
_MEASURED = "个只本张条次位名天年岁点块元件种家部台辆层楼座杯瓶碗双对排行遍场份封颗头匹小分秒公米斤里升倍人"


def cardinal(written: str) -> str:
    """Return the characters of digits with optional thousands commas and decimals, e.g. "1,234.5".

    Raises:
        MissingExtra: cn2an is not installed.
    """
    head, _, decimals = written.replace(",", "").partition(".")
    if len(head) > numbers.MOST_DIGITS or (len(head) > 1 and head[0] == "0"):
        spoken = spelt(head)
    else:
        try:
            import cn2an
        except ImportError as error:
            raise MissingExtra("Reading Chinese numbers", "cn2an", "languages") from error
        spoken = re.sub("^一十", "十", str(cn2an.an2cn(int(head), "low")))
    return f"{spoken}点{spelt(decimals)}" if decimals else spoken


def spelt(digits: str) -> str:
    """Return the digits one by one."""
    return "".join(_DIGITS[int(digit)] for digit in digits)


def _number(match: re.Match[str]) -> list[Piece]:
    return [said(match, cardinal(match[0]))]


def _spelt(match: re.Match[str]) -> list[Piece]:
    return [said(match, spelt(match[0]))]


def _phone(match: re.Match[str]) -> list[Piece]:
    return [said(match, spelt(re.sub(r"\D", "", match[0])).replace("一", "幺"))]


def _pair(match: re.Match[str]) -> list[Piece]:
    return [said(match, "两")]


def _date(match: re.Match[str]) -> list[Piece]:
    month, day = cardinal(str(int(match["month"]))), cardinal(str(int(match["day"])))
    return [said(match, f"{spelt(match['year'])}年{month}月{day}日")]


def _time(match: re.Match[str]) -> list[Piece]:
    parts = [("点", match["hour"]), ("分", match["minute"]), ("秒", match["second"])]
    spoken = [cardinal(str(int(value))) + name for name, value in parts[:1]]
    for name, value in parts[1:]:
        if value and (int(value) or (name == "分" and match["second"])):
            spoken.append(("零" if 0 < int(value) < 10 else "") + cardinal(str(int(value))) + name)
    return [said(match, "".join(spoken).replace("二点", "两点", int(match["hour"]) == 2))]


def _percent(match: re.Match[str]) -> list[Piece]:
    whole = {"%": "百分之", "‰": "千分之"}[match["sign"]]
    return [said(match, whole + cardinal(match["number"]))]


def _money(match: re.Match[str]) -> list[Piece]:
    name = _CURRENCIES[match["currency"]]
    return [said(match, _counted(match["number"]) + (match["magnitude"] or "") + name)]


def _measure(match: re.Match[str]) -> list[Piece]:
    return [said(match, _counted(match["number"]) + _UNITS[match["unit"]])]


def _counted(number: str) -> str:
    return "两" if number == "2" else cardinal(number)


def _fraction(match: re.Match[str]) -> list[Piece]:
    return [said(match, f"{cardinal(match['below'])}分之{cardinal(match['above'])}")]


def _character(match: re.Match[str]) -> list[Piece]:
    return [said(match, match[0])]


def _symbol(match: re.Match[str]) -> list[Piece]:
    return [said(match, _SYMBOLS[match[0]])]


def _marks(match: re.Match[str]) -> list[Piece]:
    stops = match[0].replace("。", ".")
    return [said(match, max((m if m in writing.MARKS else "," for m in stops), key=writing.MARKS.index))]


_NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,5}(?![0-9])|[0-9]+)(?:\.[0-9]{1,15})?"
_DAY = r"(?P<day>0?[1-9]|[12][0-9]|3[01])"
_MONTH = r"(?P<month>0?[1-9]|1[0-2])"
_NUMBERS: list[Rule] = [
    (rf"(?P<year>[12][0-9]{{3}})[-/.]{_MONTH}[-/.]{_DAY}(?![0-9])", _date),
    (r"[0-9]{2,4}(?=年(?!级|来|前|后|内|间|以))", _spelt),
    (r"(?P<hour>[01]?[0-9]|2[0-4]):(?P<minute>[0-5][0-9])(?::(?P<second>[0-5][0-9]))?(?![0-9:])", _time),
    (r"(?<![0-9])(?:\+86[ -]?)?1[3-9][0-9][ -]?[0-9]{4}[ -]?[0-9]{4}(?![0-9])", _phone),
    (r"(?<![0-9])0[0-9]{2,3}-[0-9]{7,8}(?![0-9])", _phone),
    (rf"(?P<number>{_NUMBER})\s?(?P<sign>[%‰])", _percent),
    (rf"(?P<currency>[{''.join(_CURRENCIES)}])\s?(?P<number>{_NUMBER})(?P<magnitude>[万亿]{{0,2}})", _money),
    (rf"(?P<number>{_NUMBER})\s?(?P<unit>{any_of(_UNITS)})(?![A-Za-z0-9/])", _measure),
    (r"(?P<above>[0-9]{1,4})[/⁄](?P<below>[1-9][0-9]{0,3})(?![0-9/])", _fraction),
    (rf"(?<![0-9.第十])2(?=[{_MEASURED}])(?!点[0-9]+(?![0-9分]))", _pair),
    (r"(?<=[0-9%年月日])\s?[-–~]\s?(?=[0-9])", always("到")),
    (r"(?<![0-9A-Za-z)])[-−](?=[0-9])|−", always("负")),
    (
        r"[0-9]{1,15}(?:\.[0-9]{1,15}){2,8}",
        lambda match: [said(match, "点".join(map(spelt, match[0].split("."))))],
    ),
    (_NUMBER, _number),
]
RULES: list[Rule] = [
    *writing.ADDRESS_RULES,
    *_NUMBERS,
    (rf"[{CHARACTER}]", _character),
    *writing.WORD_RULES,
    (r"\s+", writing.space),
    (r"[.…]{2,}(?![?!])", always(",")),
    (r"[,、;:()。.!?…]+", _marks),
    (r"[—―~·]+|--+", always(",")),
    (rf"[{re.escape(''.join(_SYMBOLS))}]", _symbol),
    (rf"{writing.SILENT_SIGNS}|[《》〈〉「」『』【】〔〕]", writing.silent),
]
