"""How likely a text is: to a recogniser that hears the candidate, and to the model that drew its codes.

Must not know: other scorers, any recogniser, the language model.
"""

import math
from collections.abc import Sequence

from llasa.core import Candidate, Score, Utterance
from llasa.errors import ConfigError, InputError, ScorerError
from llasa.recognizers.base import Recognizer, SupportsLikelihood, TextForm
from llasa.scorers.base import CODES, SMALL_MODEL, Cost, Scale
from llasa.scorers.sounds import sound_of
from llasa.text.phones import WORD_BREAK
from llasa.text.reading import Reader


def in_form(reader: Reader, said: Utterance, form: TextForm) -> str:
    """Return a text as a recogniser of that form takes it.

    Raises:
        InputError, ConfigError: as `Reader.__call__`.
    """
    if form == "written":
        return said.text
    words = reader(said.text, "phones" if form == "phones" else "words", said.language)
    if form == "phones":
        return f" {WORD_BREAK} ".join(" ".join(word.tokens) for word in words)
    return " ".join(word.text for word in words)


class Likelihood:
    """Scores by how well a recogniser can hear the text in the sound: finer than what it hears first."""

    name: str = "nll"
    partial: bool = False

    def __init__(
        self, recognizer: Recognizer, reader: Reader, scale: Scale = 2.0, cost: Cost = SMALL_MODEL
    ) -> None:
        """Take what listens and what reads.

        Args:
            scale: nats a token that are worth 1/e: value = exp(-nll / scale).
            cost: `scorers.base.LARGE_MODEL` for a recogniser that is large or far away.

        Raises:
            ConfigError: the recogniser cannot tell how likely a text is, or the reader cannot read its form.
        """
        if not isinstance(recognizer, SupportsLikelihood):
            raise ConfigError(
                f"Making the scorer 'nll': recogniser '{recognizer.name}' cannot tell how likely a text is. "
                "Choose one that can, such as the bundle's, or leave this scorer out."
            )
        self.recognizer: SupportsLikelihood = recognizer
        self.reader = reader
        self.scale = scale
        self.cost = cost
        in_form(reader, Utterance("", "a"), recognizer.text_form)

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """See `Scorer.score`. measures: `nll` in nats a token; none where the text cannot fit."""
        form = self.recognizer.text_form
        texts = [in_form(self.reader, candidate.utterance, form) for candidate in candidates]
        likely = self.recognizer.log_likelihood([sound_of(candidate) for candidate in candidates], texts)
        return [self._score(value) for value in likely]

    def _score(self, nats: float) -> Score:
        if nats == -math.inf:  # no number of nats: a report could not average it
            return Score(0.0, {}, "The text does not fit into the sound.")
        return Score(_worth(nats, self.scale), {"nll": -nats})


class ModelLikelihood:
    """Scores by how likely the language model found the codes it drew; costs nothing."""

    name: str = "lm"
    partial: bool = True
    cost: int = CODES

    def __init__(self, scale: Scale = 2.0) -> None:
        """Take the scale: nats a code that are worth 1/e: value = exp(logprob / scale)."""
        self.scale = scale

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """See `Scorer.score`. measures: `logprob`, mean nats a code."""
        return [self._score(candidate) for candidate in candidates]

    def _score(self, candidate: Candidate) -> Score:
        if candidate.logprob is None:
            raise InputError(
                f"Judging '{candidate.utterance.id}' by the language model: no log-probability was kept. "
                "Sample with logprobs=true."
            )
        return Score(_worth(candidate.logprob, self.scale), {"logprob": candidate.logprob})


def _worth(nats: float, scale: float) -> float:
    if math.isnan(nats) or nats == math.inf:
        raise ScorerError("Scoring by likelihood: found no number. Check the model that gave it.")
    return math.exp(min(0.0, nats) / scale)
