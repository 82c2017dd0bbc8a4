"""Is every word of a text there, the last one above all: a word is if the text fits the sound better with it.

Must not know: other scorers, any recogniser, what was heard in place of a word.
"""

import math
from collections.abc import Sequence

from llasa.core import Audio, Candidate, Score
from llasa.errors import ConfigError, ScorerError
from llasa.recognizers.base import Recognizer, SupportsLikelihood, TextForm, Transcript
from llasa.scorers.base import SMALL_MODEL, Cost
from llasa.scorers.sounds import sound_of
from llasa.text.phones import WORD_BREAK
from llasa.text.reading import Reader, ReadWord, Unit, tokens_of

UNITS: dict[TextForm, Unit] = {"phones": "phones", "characters": "characters"}

# Of 504 words in 48 utterances of the starter, 99.0 % fit better than this, and every last word by 5 nats a
# token and more; no last word of a sound that lacks its last fifth does. Of the words of another text half
# are found once the others are taken out, at any limit: that it is another one is for error rates to tell.
LEAST_FIT = 0.0
ROOM = 0.15  # tokens too many that a recogniser may hear, by tokens of the text; it heard 3 % at most
LAST_MISSING = 0.5
_ROUNDING = 1e-3  # nats above 0 that a likelihood may have


class Coverage:
    """Tells which words of a text are in the sound: by likelihood, not by what is heard first.

    A word is there if the text fits the sound better with it than without: the ratio of two CTC likelihoods,
    each a sum over all alignments. Words that are not are taken out, the worst first. value: the share of
    words that are there, half of it if the last one is not, by one plus the share of tokens heard beyond
    `ROOM` too many, for no loop is folded away here. As a gate it orders bad attempts as well; with a `floor`
    of 0.98 it refuses all but whole ones.
    """

    name: str = "coverage"
    partial: bool = False

    def __init__(self, recognizer: Recognizer, reader: Reader, cost: Cost = SMALL_MODEL) -> None:
        """Take what listens and what reads.

        Raises:
            ConfigError: the recogniser hears neither phones nor characters, or knows no likelihoods.
        """
        form = recognizer.text_form
        if not isinstance(recognizer, SupportsLikelihood) or form not in UNITS:
            found = f"recogniser '{recognizer.name}' hears {form} text, or cannot tell how likely a text is"
            todo = "Choose one that hears phones or characters and can, such as the bundle's"
            raise ConfigError(f"Making the scorer 'coverage': {found}. {todo}.")
        self.recognizer: Recognizer = recognizer
        self._likely: SupportsLikelihood = recognizer
        self.reader, self.cost = reader, cost
        self._unit: Unit = UNITS[form]
        reader("a", self._unit)

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """See `Scorer.score`. measures: `coverage`, the share of words that are there; `last_fit` and
        `worst_fit`, nats a token of the word; `heard_ratio`, tokens heard by tokens of the text.
        """
        sounds = [sound_of(candidate) for candidate in candidates]
        heard = self.recognizer.transcribe(sounds)
        self._check(heard, len(sounds))
        return [self._score(*row) for row in zip(candidates, sounds, heard, strict=True)]

    def _score(self, candidate: Candidate, audio: Audio, transcript: Transcript) -> Score:
        said, form = candidate.utterance, self.recognizer.text_form
        words = self.reader(said.text, self._unit, said.language)
        tokens = tokens_of(self.reader.heard(transcript.text, form, self._unit, said.language))
        wanted = tokens_of(words)
        ratio = len(tokens) / len(wanted)
        if len(wanted) == 1:  # without it there is no text that could fit worse
            share = float(wanted[0] in tokens)
            value = share / (1 + max(0.0, ratio - 1 - ROOM))
            return Score(value, {"coverage": share, "heard_ratio": ratio})
        fits = self._settled(audio, words)
        if not fits:
            measures = {"coverage": 0.0, "heard_ratio": ratio}
            return Score(0.0, measures, "The text does not fit into the sound.")
        there = [fit > LEAST_FIT for fit in fits]
        share = sum(there) / len(there)
        missing = ", ".join(word.text for word, found in zip(words, there, strict=True) if not found)
        measures = {"coverage": share, "last_fit": fits[-1], "worst_fit": min(fits), "heard_ratio": ratio}
        value = share * (1.0 if there[-1] else LAST_MISSING) / (1 + max(0.0, ratio - 1 - ROOM))
        return Score(value, measures, f"not there: {missing}" if missing else "")

    def _settled(self, audio: Audio, words: Sequence[ReadWord]) -> list[float]:
        """Return the fit of each word, the worst being taken out of the text until all that are left fit.

        A word that is missing takes the sounds of its neighbours, which then seem to be missing too.
        """
        found, left = dict[int, float](), list(range(len(words)))
        while fits := self._fits(audio, [words[i] for i in left]):
            found |= zip(left, fits, strict=True)
            worst = min(range(len(left)), key=lambda place: fits[place])
            if fits[worst] > LEAST_FIT or len(left) == 1:
                break
            left.pop(worst)
            if len(left) == 1 and len(words[left[0]].tokens) == 1:
                break
        return [found[number] for number in sorted(found)]

    def _fits(self, audio: Audio, words: Sequence[ReadWord]) -> list[float]:
        """Return how much better the text fits with each word, nats a token; [] if it does not at all."""
        rows = [words, *(_without(words, number) for number in range(len(words)))]
        texts = [self._spelt(row) for row in rows]
        sizes = [_size(text, self._unit) for text in texts]
        nats = self._likely.log_likelihood([audio] * len(texts), texts)
        self._check(nats, len(texts))
        if nats[0] == -math.inf:
            return []
        whole = nats[0] * sizes[0]
        return [
            (whole - each * size) / (sizes[0] - size) for each, size in zip(nats[1:], sizes[1:], strict=True)
        ]

    def _check(self, answers: Sequence[object], count: int) -> None:
        """Raise `ScorerError` for too many or too few answers, and for what is no number."""
        odd = [f"{one}" for one in answers if isinstance(one, float) and not one <= _ROUNDING]
        if odd or len(answers) != count:
            found = f"the log-likelihood {odd[0]}" if odd else f"{len(answers)} answers to {count} questions"
            doing = f"Judging by coverage with '{self.recognizer.name}'"
            raise ScorerError(f"{doing}: found {found}. Correct the recogniser.")

    def _spelt(self, words: Sequence[ReadWord]) -> str:
        if self._unit == "phones":
            return f" {WORD_BREAK} ".join(" ".join(word.tokens) for word in words)
        return " ".join("".join(word.tokens) for word in words)


def _without(words: Sequence[ReadWord], number: int) -> Sequence[ReadWord]:
    """Leave a word out; of a text of one word, all but its first token."""
    if len(words) > 1:
        return [*words[:number], *words[number + 1 :]]
    [word] = words
    return [ReadWord(word.text, word.tokens[:1], word.start, word.end)]


def _size(text: str, unit: Unit) -> int:
    """Return how many tokens a recogniser reads in a text, word marks too."""
    return len(text.split()) if unit == "phones" else len(text)
