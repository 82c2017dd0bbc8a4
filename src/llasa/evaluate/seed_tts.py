"""The error rate of Seed-TTS-eval as its tool counts it. Differs from ours; see docs/evaluation.md.

Source: github.com/BytedanceSpeech/seed-tts-eval, run_wer.py and average_wer.py: punctuation of zhon and of
ASCII goes but for the apostrophe, one pass makes two spaces one, Chinese is cut into characters after zhconv,
English made lower case, jiwer counts, and the mean of the sentences is told. Numbers stay as written.
"""

import string
import warnings
from functools import lru_cache
from typing import Any

from llasa.errors import MissingExtra
from llasa.text.normalize import language_code

LANGUAGES = ("en", "zh")


class SeedTtsRate:
    """Error rate of one sentence."""

    def __init__(self, language: str) -> None:
        """Take a language, one of `LANGUAGES`.

        Raises:
            MissingExtra: zhon, zhconv or jiwer is not installed.
        """
        self._chinese = language_code(language) == "zh"
        self._tools = _tools()

    def __call__(self, text: str, heard: str) -> float:
        """Return the rate; above 1 where more was heard than there is to say.

        Args:
            text: as the test set has it. heard: as the recogniser writes it.
        """
        jiwer, punctuation, convert = self._tools
        sides = [
            self._plain(text, punctuation),
            self._plain(convert(heard) if self._chinese else heard, punctuation),
        ]
        return float(jiwer.process_words(*sides).wer)

    def _plain(self, text: str, punctuation: str) -> str:
        for sign in punctuation:
            text = text.replace(sign, "")
        text = text.replace("  ", " ")
        return " ".join(text) if self._chinese else text.lower()


@lru_cache(maxsize=1)
def _tools() -> tuple[Any, str, Any]:
    doing = "Counting errors as Seed-TTS-eval does"
    try:
        import jiwer
        from zhon.hanzi import punctuation

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it reads its tables by pkg_resources
            import zhconv
    except ImportError as error:
        raise MissingExtra(doing, error.name or "zhon", "eval") from error
    return (
        jiwer,
        (punctuation + string.punctuation).replace("'", ""),
        lambda text: zhconv.convert(text, "zh-cn"),
    )
