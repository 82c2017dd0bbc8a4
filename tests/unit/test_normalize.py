"""What the normaliser says for what people write, where each word came from, and what it costs."""

# ruff: noqa: RUF001 (look-alike characters are what is tested)

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llasa.errors import ConfigError, InputError
from llasa.text import numbers
from llasa.text.normalize import normalize

WORDS = {
    "Hello, how are you?": "hello, how are you?",
    "don't stop": "don't stop",
    "They’re “curly” ‘quotes’": "they're curly quotes",
    "'hello' rock 'n' roll 'tis dogs' the dog's": "hello rock and roll 'tis dogs the dog's",
    "well-known": "well known",
    "wait — what": "wait, what",
    "on--and on": "on, and on",
    "Wait... what?": "wait, what?",
    "Hmm… Yes.": "hmm. yes.",
    "Really?! No!!!": "really? no!",
    "one; two: three (four) five": "one, two, three, four, five",
    "café naïve Łódź Øre straße": "cafe naive lodz ore strasse",
    "cafe\u0301": "cafe",
    "ｆｕｌｌ－ｗｉｄｔｈ １２": "full width twelve",
    "ﬁne": "fine",
    "π and μ": "pi and mu",
    "a\n\nb": "a. b",
    "YouTube McDonald": "you tube mcdonald",
}
NUMBERS = {
    "0 7 13 21 100 342": "zero seven thirteen twenty one one hundred three hundred forty two",
    "1,234,567": "one million two hundred thirty four thousand five hundred sixty seven",
    "12345": "twelve thousand three hundred forty five",
    "3.14": "three point one four",
    ".5": "point five",
    "-5": "minus five",
    "5 - 3 = 2": "five minus three equals two",
    "007": "zero zero seven",
    "1234567890123456": "one two three four five six seven eight nine zero one two three four five six",
    "1.2.3": "one point two point three",
    "٣": "three",
    "1st 2nd 3rd 12th 21st 100th": "first second third twelfth twenty first one hundredth",
    "1,000th": "one thousandth",
    "5-10": "five to ten",
    "pages 10 – 20": "pages ten to twenty",
    "1/2 3/4 2/3": "one half three quarters two thirds",
    "1 1/2 and 2¾": "one and one half and two and three quarters",
    "7/5": "seven over five",
    "24/7": "twenty four seven",
    "3 x 4 and 3*4": "three by four and three times four",
    "10^5": "ten to the power of five",
    "5 < 6": "five is less than six",
    "ratio 3:1": "ratio three to one",
    "6'2\" tall": "six foot two tall",
    "MP3 H2O 5G COVID-19": "m p three h two o five g covid nineteen",
}
YEARS_AND_DATES = {
    "In 1987": "in nineteen eighty seven",
    "1905 1900 2000": "nineteen oh five nineteen hundred two thousand",
    "2005 2021": "two thousand five twenty twenty one",
    "1914-1918": "nineteen fourteen to nineteen eighteen",
    "1914–18": "nineteen fourteen to eighteen",
    "1980s '90s": "nineteen eighties nineties",
    "March 3, 1987": "march third, nineteen eighty seven",
    "March 3": "march third",
    "3 March 1987": "the third of march nineteen eighty seven",
    "on the 3rd of March": "on the third of march",
    "May 2005": "may two thousand five",
    "Sept. 5th": "september fifth",
    "4/7/2021": "april seventh twenty twenty one",
    "25/12/1999": "december twenty fifth nineteen ninety nine",
    "25/25/1999": "twenty five slash twenty five slash one thousand nine hundred ninety nine",
    "2021-07-04": "july fourth twenty twenty one",
}
TIMES = {
    "9:30 pm": "nine thirty p m",
    "9 a.m.": "nine a m.",
    "at 9 p.m. John left": "at nine p m. john left",
    "21:05": "twenty one oh five",
    "9:00": "nine o'clock",
    "21:00": "twenty one hundred",
    "12:05:01": "twelve oh five and one second",
}
MONEY = {
    "$12.50": "twelve dollars and fifty cents",
    "$1 $1.01 $0.99 $0.00": "one dollar one dollar and one cent ninety nine cents zero cents",
    "£3m": "three million pounds",
    "$1.5 million": "one point five million dollars",
    "€5 and 5€": "five euros and five euros",
    "£0.01": "one penny",
    "¥500": "five hundred yen",
    "US$20": "twenty u s dollars",
    "$1,000,000": "one million dollars",
    "$5–$10": "five dollars to ten dollars",
}
UNITS = {
    "50%": "fifty percent",
    "5 km": "five kilometers",
    "1 km": "one kilometer",
    "3 kg": "three kilograms",
    "70 mph": "seventy miles per hour",
    "20°C": "twenty degrees celsius",
    "-5 °F": "minus five degrees fahrenheit",
    "3.5 GB": "three point five gigabytes",
    "5 ft": "five feet",
    "5 km²": "five kilometers squared",
    "5 μm": "five micrometers",
}
SHORT_FORMS = {
    "Dr. Smith": "doctor smith",
    "Mr Smith and Mrs. Jones": "mister smith and missus jones",
    "St. James St. is here": "saint james street is here",
    "cats, e.g. lions, i.e. big": "cats, for example lions, that is big",
    "and so on, etc.": "and so on, et cetera.",
    "Apple Inc. is big. Apple Inc. He said.": "apple incorporated is big. apple incorporated. he said.",
    "No. 5 vs. no. 6": "number five versus number six",
    "No. That is wrong.": "no. that is wrong.",
    "FBI USA UK": "f b i u s a u k",
    "NASA": "nasa",
    "CIA's CDs": "c i a's c d's",
    "HELLO WORLD": "hello world",
    "I did NOT": "i did not",
    "in the U.S. Army": "in the u s army",
    "in the U.S. The end": "in the u s. the end",
    "J. K. Rowling": "j k rowling",
    "vitamin C. The end": "vitamin c. the end",
    "Henry VIII": "henry the eighth",
    "Louis XIV's": "louis the fourteenth's",
    "World War II": "world war two",
    "Chapter IV": "chapter four",
    "I am": "i am",
}
SYMBOLS = {
    "a & b": "a and b",
    "and/or": "and or",
    "x @ y # z": "x at y hash z",
    "1 + 2 = 3": "one plus two equals three",
    "#1 #tag C#": "number one hashtag tag c sharp",
    "call 555-1234": "call five five five, one two three four",
    "(555) 123-4567": "five five five, one two three, four five six seven",
    "+44 20 7946 0958": "plus four four, two zero, seven nine four six, zero nine five eight",
    "john.doe@example.com.": "john dot doe at example dot com.",
    "https://www.example.com/a-b": "w w w dot example dot com slash a dash b",
    "(http://x.io/?q=1)": "x dot i o slash question mark q equals one,",
    "example.org!": "example dot org!",
    "node.js": "node dot js",
    "**bold** snake_case": "bold snake case",
}
MARKERS = {
    "<|s_12|>": "s twelve",
    "<|SPEECH_GENERATION_END|>": "speech generation end",
    "＜｜s_12｜＞": "s twelve",
    "a<|s_1|>b": "a s one b",
}
TABLES = [WORDS, NUMBERS, YEARS_AND_DATES, TIMES, MONEY, UNITS, SHORT_FORMS, SYMBOLS, MARKERS]


@pytest.mark.parametrize(("written", "said"), [case for table in TABLES for case in table.items()])
def test_says(written, said):
    assert normalize(written).text == said


def words_and_sources(text):
    normal = normalize(text)
    return [
        (word, text[slice(*span)]) for word, span in zip(normal.text.split(" "), normal.spans, strict=True)
    ]


def test_spans_name_the_smallest_source():
    assert words_and_sources("Dr. Lee paid $1.05, on May 3.") == [
        ("doctor", "Dr."),
        ("lee", "Lee"),
        ("paid", "paid"),
        *((word, "$1.05") for word in ("one", "dollar", "and", "five", "cents,")),
        ("on", "on"),
        ("may", "May"),
        ("third.", "3"),
    ]


def test_spans_cover_combining_marks_and_wide_characters():
    assert words_and_sources("cafe\u0301 ５ｋｍ") == [
        ("cafe", "cafe\u0301"),
        ("five", "５"),
        ("kilometers", "ｋｍ"),
    ]


def test_dropped_are_listed_once_in_order():
    assert normalize("hi 😀 漢 😀 x\u200by \x07<|").dropped == ("😀", "漢", "\u200b", "\x07", "<", "|")
    assert normalize('"quoted", (yes) - ok.').dropped == ()


@pytest.mark.parametrize("text", ["", "   \n", "😀😀", "...", "漢字", "\u0301", "<||>"])
def test_nothing_to_say_is_an_input_error(text):
    with pytest.raises(InputError, match="nothing that can be said"):
        normalize(text)


def test_other_languages_are_refused():
    with pytest.raises(ConfigError, match=r"'fr' is not supported\. Use one of: en, de, it, zh"):
        normalize("Bonjour", language="fr")


SIGNS = st.sampled_from(
    [*"0123456789.,:;/-–—'\"$£€%#@&+=*<>|_()ab AVIXZ\n\té😀漢½²٣＜μ°", "Dr. ", "May ", "St. ", "www."]
)


def test_letters_of_other_scripts_end_an_address() -> None:
    found = normalize("www.a.com日本www.b.com, http://c.de/日")
    assert found.text == "w w w dot a dot com w w w dot b dot com, c dot de"
    assert found.dropped == ("日", "本")


@given(st.text() | st.lists(SIGNS).map("".join))
def test_any_text_gives_plain_words_with_orderly_spans(text):
    try:
        normal = normalize(text)
    except InputError:
        return
    words = normal.text.split(" ")
    assert all(re.fullmatch(r"[a-z']*[a-z][a-z']*[,.?!]?", word) for word in words)
    assert len(words) == len(normal.spans)
    starts, ends = zip(*normal.spans, strict=True)
    assert all(0 <= start < end <= len(text) for start, end in normal.spans)
    assert list(starts) == sorted(starts)
    assert list(ends) == sorted(ends)
    assert set(normal.dropped) <= set(text)


@given(st.lists(SIGNS).map("".join))
def test_normalising_twice_changes_no_word(text):
    try:
        once = normalize(text).text
    except InputError:
        return
    assert set(normalize(once).text) <= set("abcdefghijklmnopqrstuvwxyz' ,.?!")


def seconds(text):
    start = time.process_time()
    normalize(text)
    return time.process_time() - start


@pytest.mark.parametrize("unit", ["1", ".", " ", "a", "😀", "1,", "a.", "1/", "$1"])
def test_time_is_linear(unit):
    length = 100_000 if unit in "1. a" else 15_000
    texts = ["a " + unit * (size // len(unit)) for size in (length, 2 * length)]
    single, double = (min(seconds(text) for _ in range(4)) for text in texts)
    assert double <= 2.5 * single + 0.01


def test_a_megabyte_of_digits_is_no_problem():
    assert len(normalize("7" * 1_000_000).spans) == 1_000_000


@pytest.mark.parametrize(
    "numeral", [("I", 1), ("IV", 4), ("XIX", 19), ("MCMLXXXVII", 1987), ("IIII", None), ("", None)]
)
def test_roman(numeral):
    written, value = numeral
    assert numbers.roman(written) == value


@given(st.integers(0, 10**15 - 1))
def test_cardinals_and_ordinals_have_the_same_words_but_the_last(number):
    assert numbers.cardinal(number).split(" ")[:-1] == numbers.ordinal(number).split(" ")[:-1]
