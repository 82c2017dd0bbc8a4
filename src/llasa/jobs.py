"""One utterance made ready for an engine: its prompt, and how long it may be. Must not know: sound."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llasa import config
from llasa.bundle import Bundle
from llasa.core import SamplingParams, Utterance, Voice
from llasa.errors import ConfigError, InputError
from llasa.search import Job
from llasa.text.reading import is_unspaced

# Fitted to 7,600 sentences of six synthetic voices, all within a factor of 1.7.
START_S, CHARACTERS_PER_S = 0.5, 18.0
# Speech that takes longer than this has gone wrong, even by a slow speaker.
LONGEST, LONGEST_EXTRA_S = 2.5, 1.0
# No word is shorter: before this the end marker can only be a mistake.
SHORTEST_S = 0.2


@dataclass(frozen=True)
class Ready(Job):
    """One utterance made ready. dropped: what of it cannot be said. expected_s: how long it may be."""

    dropped: tuple[str, ...] = ()
    expected_s: float = 0.0


def codes_per_s(bundle: Bundle) -> float:
    """Return how many codes of a bundle's codec are a second."""
    return bundle.codec.sample_rate / bundle.codec.hop_length


def ready(bundle: Bundle, utterance: Utterance, n: int, seed: int, sampling: Mapping[str, object]) -> Ready:
    """Return an utterance made ready for `n` candidates.

    Args:
        sampling: fields of `manifest.Sampling`; those not given are the bundle's.

    Raises:
        ConfigError: a sampling parameter is unknown or out of range.
        InputError: text and voice leave no room.
    """
    text, voice = utterance.text, utterance.voice
    form = bundle.form(text, utterance.language)
    reference = replace(voice, text=_transcript(bundle, voice)) if voice else None
    unspaced = is_unspaced(utterance.language) and bundle.phonemizer is None
    prompt = bundle.prompt.render(form.text, reference, "" if unspaced else None)
    expected_s = START_S + form.weight / CHARACTERS_PER_S
    params = replace(_params(bundle, text, expected_s, len(prompt), sampling), n=n, seed=seed)
    dropped = (*form.dropped, *bundle.prompt.text_ids(form.text)[1])
    return Ready(utterance, prompt, params, dropped, expected_s)


def _transcript(bundle: Bundle, voice: Voice) -> str:
    """Return a voice's text in the form that the model reads, by the voice's own language."""
    return bundle.form(voice.text, voice.language or bundle.language(voice.text)).text


def _params(
    bundle: Bundle, text: str, expected: float, n_prompt: int, sampling: Mapping[str, object]
) -> SamplingParams:
    def count(seconds: float) -> int:
        return math.ceil(seconds * codes_per_s(bundle))

    chosen = config.changed(bundle.sampling, sampling, "Choosing sampling parameters")
    room = min(bundle.max_length, bundle.engine.max_length) - n_prompt
    if room < count(expected):
        raise InputError(
            f"Saying {text[:40]!r}: it takes about {expected:.0f} s, but with text and voice "
            f"there is room for {max(room, 0) / codes_per_s(bundle):.0f} s. Use a shorter voice or text."
        )
    limit = min(chosen.max_tokens or count(LONGEST * expected + LONGEST_EXTRA_S), room)
    first = min(limit, count(SHORTEST_S)) if chosen.min_tokens is None else chosen.min_tokens
    if first > limit:
        raise ConfigError(
            f"Choosing sampling parameters: min_tokens is {first}, but {text[:40]!r} ends after "
            f"{limit} codes at most. Lower min_tokens, or raise max_tokens where it is given."
        )
    fields: dict[str, Any] = chosen.model_dump() | {"max_tokens": limit, "min_tokens": first}
    return bundle.prompt.constrain(SamplingParams(**fields))
