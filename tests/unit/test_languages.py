"""What the normaliser says for German, Italian and Chinese, and that no text makes it crash."""

# ruff: noqa: RUF001 (full-width signs are what is tested)

import builtins
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa.errors import InputError, MissingExtra
from llasa.prompt import MARKERS
from llasa.text.normalize import LANGUAGES, normalize

ITALIAN = {
    "Perché l'albero costa 3,50 €?": "perché l'albero costa tre euro e cinquanta centesimi?",
    "Perche\u0301 CITTÀ È": "perché città è",
    "Il 1º maggio 2024 alle 14:30.": "il primo maggio duemilaventiquattro alle quattordici e trenta.",
    "il 28 agosto. Poi": "il ventotto agosto. poi",
    "12/05/1999": "dodici maggio millenovecentonovantanove",
    "1.234 persone, 1.000.000": "milleduecentotrentaquattro persone, un milione",
    "23, 103": "ventitré, centotré",
    "0,05 e 3,14": "zero virgola zero cinque e tre virgola quattordici",
    "3.1415": "tre punto uno quattro uno cinque",
    "il 5 % e 1%": "il cinque per cento e uno per cento",
    "Nel XX secolo": "nel ventesimo secolo",
    "il 3° piano, 20 °C, 30° all'ombra": "il terzo piano, venti gradi, trenta gradi all'ombra",
    "5ª volta": "quinta volta",
    "100 km/h, 1 km, 2 m²": "cento chilometri orari, un chilometro, due metri quadrati",
    "Il Sig. Rossi, la Dott.ssa Bianchi, ecc. Poi": "il signor rossi, la dottoressa bianchi, eccetera. poi",
    "c'è un po' d'acqua": "c'è un po d'acqua",
    "DVD, UE, FIAT": "di vu di, u e, fiat",
    "3/4, 1/2, 5/30": "tre quarti, un mezzo, cinque su trenta",
    "€ 1.000 o 1 €": "mille euro o un euro",
    "pag. 3, n. 5": "pagina tre, numero cinque",
    "info@esempio.it": "info chiocciola esempio punto it",
    "+39 06 12": "più tre nove zero sei uno due",
    "alle 9.05": "alle nove e cinque",
    "-5 + 2 = -3": "meno cinque più due uguale meno tre",
    "naïve señor": "naive senor",
}
GERMAN = {
    "Am 3. Mai 2024 um 14:30 Uhr.": "am dritten mai zweitausendvierundzwanzig um vierzehn uhr dreißig.",
    "Der 3. Mai. Das": "der dritte mai. das",
    "3,50 € und 1 €": "drei euro und fünfzig cent und ein euro",
    "Der 2. Weltkrieg endete 1945. Dann": "der zweite weltkrieg endete neunzehnhundertfünfundvierzig. dann",
    "im 19. Jahrhundert": "im neunzehnten jahrhundert",
    "am 12.05.1999": "am zwölften mai neunzehnhundertneunundneunzig",
    "z. B. 5 km, d.h. 1 Std.": "zum beispiel fünf kilometer, das heißt eine stunde",
    "usw. Die": "und so weiter. die",
    "Ludwig XIV. war": "ludwig der vierzehnte war",
    "Dr. Müller, Hauptstr. 5": "doktor müller, hauptstraße fünf",
    "3/4, 1/2, 2/3": "drei viertel, ein halb, zwei drittel",
    "LKW, EU, NATO": "ell ka we, e u, nato",
    "1.234,5 Mio. €": "eintausendzweihundertvierunddreißig komma fünf millionen euro",
    "STRASSE Ärger Äpfel": "strasse ärger äpfel",
    "A\u0308pfel": "äpfel",
    "1990–1995": "neunzehnhundertneunzig bis neunzehnhundertfünfundneunzig",
    "0171 123": "null eins sieben eins eins zwei drei",
    "Es ist 1 Uhr": "es ist ein uhr",
    "0,05 m²": "null komma null fünf quadratmeter",
    "S. 7, Nr. 2": "seite sieben, nummer zwei",
}
CHINESE = {
    "我有2个苹果，花了12.5元。": "我有两个苹果,花了十二点五元.",
    "2024年5月3日14:30，-5°C": "二零二四年五月三日十四点三十分,负五摄氏度",
    "2024-05-03": "二零二四年五月三日",
    "涨了3.5%，从100到1,000": "涨了百分之三点五,从一百到一千",
    "我用iPhone 12拍照，upload到YouTube！": "我用 i phone 十二拍照, upload 到 you tube!",
    "打13812345678": "打幺三八幺二三四五六七八",
    "《红楼梦》有120回……第10章": "红楼梦有一百二十回,第十章",
    "１２３　ＡＢＣ，你好？": "一百二十三 a b c,你好?",
    "2点30分，20℃，3/4": "两点三十分,二十摄氏度,四分之三",
    "8:05": "八点零五分",
    "$5亿和¥100": "五亿美元和一百元",
    "10~15人": "十到十五人",
    "007": "零零七",
}
CASES = [
    pytest.param(code, said, wanted, id=f"{code}: {said}")
    for code, table in (("it", ITALIAN), ("de", GERMAN), ("zh", CHINESE))
    for said, wanted in table.items()
]
OTHERS = [code for code in LANGUAGES if code != "en"]


@pytest.mark.parametrize(("code", "text", "wanted"), CASES)
def test_what_is_said(code: str, text: str, wanted: str) -> None:
    assert normalize(text, code).text == wanted


@pytest.mark.parametrize("code", OTHERS)
def test_a_region_does_not_matter(code: str) -> None:
    assert normalize("3", f"{code}-XX") == normalize("3", code)


def test_each_word_knows_its_place() -> None:
    text = "Il 3 maggio: 20%"
    normal = normalize(text, "it")
    places = [(word, text[start:end]) for word, (start, end) in zip(normal.words, normal.spans, strict=True)]
    assert places == [
        ("il", "Il"),
        ("tre", "3"),
        ("maggio,", "maggio"),
        *((w, "20%") for w in ("venti", "per", "cento")),
    ]


def test_a_chinese_character_is_a_word_and_knows_its_place() -> None:
    text = "有12只cat。"
    normal = normalize(text, "zh")
    assert normal.words == ["有", "十", "二", "只", "cat."]
    assert [text[start:end] for start, end in normal.spans] == ["有", "12", "12", "只", "cat"]


def test_what_cannot_be_said_is_told() -> None:
    assert normalize("ciao 😀 漢", "it").dropped == ("😀", "漢")
    assert normalize("你好 😀", "zh").dropped == ("😀",)
    with pytest.raises(InputError, match="nothing that can be said"):
        normalize("…", "de")


SIGNS = st.sampled_from(
    [
        *"0123456789.,:;/-–'\"$£€¥%#@&+=*<>|_()äÖßèÀº°²ab AVIXZ\n\té😀漢字第点年月日，。！½",
        "Dr. ",
        "z. B. ",
        "Mai ",
        "ecc. ",
        *MARKERS[:3],
        "<|s_1|>",
        "http://",
        "км",
    ]
)


@settings(deadline=None, max_examples=150)
@given(st.lists(SIGNS, max_size=30).map("".join) | st.text(max_size=40), st.sampled_from(OTHERS))
def test_no_text_makes_it_crash_lose_its_place_or_say_a_marker(text: str, code: str) -> None:
    try:
        normal = normalize(text, code)
    except InputError:
        return
    assert len(normal.words) == len(normal.spans)
    starts, ends = zip(*normal.spans, strict=True)
    assert list(starts) == sorted(starts) and list(ends) == sorted(ends)
    assert all(0 <= start < end <= len(text) for start, end in normal.spans)
    assert set(normal.dropped) <= set(text)
    assert not set("<|>_0123456789") & set(normal.text)


@pytest.mark.parametrize("code", OTHERS)
def test_time_is_linear_in_the_length(code: str) -> None:
    piece = "Am 3. Mai 1.234,5 km/h z. B. 12:30 €5 3/4 第2章2024年 "

    def took(times: int) -> float:
        start = time.perf_counter()
        normalize(piece * times, code)
        return time.perf_counter() - start

    took(10)
    assert took(800) < 20 * min(took(100), took(100)) + 0.2


@pytest.mark.parametrize(("code", "package"), [("it", "num2words"), ("de", "num2words"), ("zh", "cn2an")])
def test_a_missing_package_is_named(code: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object) -> object:
        if name == package:
            raise ImportError(name)
        return real(name, *args)  # pyright: ignore[reportArgumentType]

    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=rf"'{package}'.*llasa\[languages\]"):
        normalize("12", code)
