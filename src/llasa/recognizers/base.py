"""The recogniser contract: what was said, and how likely a text is. Knows no codec and no language model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from llasa.core import Audio

TextForm = Literal["phones", "characters"]


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
        """
        ...

    def log_likelihood(self, audio: Sequence[Audio], texts: Sequence[str]) -> list[float]:
        """Return log P(text | clip) / tokens of the text, nats a token, at most 0, for each pair.

        Args:
            audio: the clips.
            texts: one a clip, in this `text_form`. A text that cannot fit into its clip gives -inf.

        Raises:
            InputError: as `transcribe`, or a text has no token or an unknown one.
        """
        ...
