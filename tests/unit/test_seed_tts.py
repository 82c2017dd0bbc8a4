"""The rate of Seed-TTS-eval's tool, on small transcripts whose rates were worked out by hand."""

from statistics import fmean

import pytest

pytest.importorskip("jiwer")
pytest.importorskip("zhon")
pytest.importorskip("zhconv")

from llasa.evaluate.seed_tts import SeedTtsRate

ROWS = [
    ("en", "The cat, sat.", "the cat sat", 0.0),
    ("en", "It's ten o'clock.", "it's ten o'clock", 0.0),
    ("en", "It's ten o'clock.", "its ten oclock", 2 / 3),  # the apostrophe stays, so these are other words
    ("en", "I have 2 dogs.", "I have two dogs", 1 / 4),  # numbers stay as they are written
    ("en", "A well-known fact", "a well known fact", 2 / 3),  # "wellknown": one changed, one put in
    ("en", "Yes—no, “maybe” …", "yes no maybe", 2 / 2),  # "yesno maybe"
    ("en", "one  two", "one two", 0.0),
    ("en", "one two", "one two two two two two", 2.0),
    ("en", "one two", "", 1.0),
    ("zh", "你好，世界！", "你好世界", 0.0),  # noqa: RUF001
    ("zh", "我听说了", "我聽說了", 0.0),  # the traditional script is converted
    ("zh", "今天天气很好。", "今天天气好", 1 / 6),
    ("zh", "我 爱 你", "我爱你", 0.0),
    ("zh", "用GPT写", "用gpt写", 3 / 5),  # letters are characters, and their case stays
]


@pytest.mark.parametrize(("language", "text", "heard", "rate"), ROWS)
def test_a_sentence(language: str, text: str, heard: str, rate: float) -> None:
    assert SeedTtsRate(language)(text, heard) == pytest.approx(rate, abs=1e-12)


def test_the_score_of_a_test_set_is_the_mean_of_its_sentences() -> None:
    found = [SeedTtsRate("en")(text, heard) for language, text, heard, _ in ROWS if language == "en"]
    assert round(fmean(found) * 100, 3) == 62.037  # as average_wer.py rounds it
