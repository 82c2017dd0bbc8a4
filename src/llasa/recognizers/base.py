"""The recogniser contract: what was said, and how likely a text is. Knows no codec and no language model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from llasa.core import Audio

# characters: normalised words, a-z and apostrophe. written: as people write, with capitals and numbers.
TextForm = Literal["phones", "characters", "written"]


@dataclass(frozen=True)
class Transcript:
    """What was heard.

    text: words with single spaces, or phones and word marks as in "DH AH | K AE T".
    tokens: the same, token by token. spans: (start, end) of each token, seconds. logprobs: nats, one a token.
    The last three are empty where a recogniser does not know them.
    """

    text: str
    tokens: tuple[str, ...] = ()
    spans: tuple[tuple[float, float], ...] = ()
    logprobs: tuple[float, ...] = ()


class Recognizer(Protocol):
    """What a recogniser must offer.

    name: `kind@weights-hash`; reports and caches remember it. text_form: of its transcripts and texts.
    """

    name: str
    text_form: TextForm

    def transcribe(self, audio: Sequence[Audio]) -> list[Transcript]:
        """Return what was said in each clip; ragged in, order kept; each equals hearing the clip alone.

        Clips at another rate are resampled.

        Raises:
            InputError: a clip is empty or has samples that are not finite.
            ScorerError: the recogniser failed: an endpoint that is down, slow or answers nonsense.
        """
        ...


@runtime_checkable
class SupportsLikelihood(Protocol):
    """A recogniser that can also tell how likely a given text is."""

    name: str
    text_form: TextForm

    def log_likelihood(self, audio: Sequence[Audio], texts: Sequence[str]) -> list[float]:
        """Return log P(text | clip) / tokens of the text, nats a token, at most 0, for each pair.

        Args:
            audio: the clips.
            texts: one a clip, in this `text_form`. A text that cannot fit into its clip gives -inf.

        Raises:
            InputError: as `Recognizer.transcribe`, or a text has no token or an unknown one.
            ScorerError: as `Recognizer.transcribe`.
        """
        ...
