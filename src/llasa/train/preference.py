"""Pairs and what was thought of them -> rows of ids: a prompt, what was preferred, what was not.

The prompt is the one that speaking would use. Must not know: trainers, how pairs and votes were made.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llasa.bundle import Bundle
from llasa.core import Ids
from llasa.data.rejects import Reject
from llasa.errors import BundleError, ConfigError, InputError
from llasa.pairs import Choice, Pair, Side
from llasa.synthesizer import Synthesizer


@dataclass(frozen=True)
class Preference:
    """A pair of which one side is better. prompt: ids up to the first that is drawn.

    chosen, rejected: the ids of each side's codes, with the end marker if it ended by itself.
    """

    id: str
    text: str
    prompt: Ids
    chosen: Ids
    rejected: Ids

    @property
    def longest(self) -> int:
        """Ids of the prompt and the longer side."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True)
class Preferences:
    """What can be learnt from. rejects: pairs that cannot be used, and why.

    left_out: pairs by why nothing can be learnt from them: `same`, `bad`, and `open` (no vote, or no
    agreement).
    """

    rows: list[Preference]
    rejects: list[Reject]
    left_out: dict[str, int]


def preferences(pairs: Sequence[Pair], choices: Mapping[str, Choice], bundle: Bundle) -> Preferences:
    """Return the preferences among pairs, in ids of a bundle.

    Args:
        choices: by the pair's id. bundle: what is to be trained; its engine says how long a row may be.
    """
    # Pairs name their voice, also a default one; others had none.
    speaker, rows, rejects = Synthesizer(bundle.without_default_voice()), list[Preference](), list[Reject]()
    left_out = Counter({"same": 0, "bad": 0, "open": 0})
    for pair in pairs:
        choice = choices.get(pair.id, "open")
        if choice not in ("a", "b"):
            left_out[choice] += 1
            continue
        try:
            rows.append(_preference(pair, choice, speaker))
        except (InputError, ConfigError, BundleError) as error:
            rejects.append(Reject(pair.id, "pairs", "failed", str(error)))
    return Preferences(rows, rejects, dict(left_out))


def _preference(pair: Pair, choice: Choice, speaker: Synthesizer) -> Preference:
    bundle = speaker.bundle
    prompt = speaker.job(pair.text, pair.voice, 0, pair.language).prompt
    better, worse = (pair.a, pair.b) if choice == "a" else (pair.b, pair.a)
    row = Preference(pair.id, pair.text, prompt, _ids(better, bundle), _ids(worse, bundle))
    if row.longest > bundle.max_length:
        found = f"it takes {row.longest} ids, and the model was trained for {bundle.max_length}"
        raise InputError(f"Learning from the pair of {pair.text[:40]!r}: {found}. Make shorter ones.")
    return row


def _ids(side: Side, bundle: Bundle) -> Ids:
    """Return what the model would have drawn to say this; one that was cut off has no end to learn."""
    if side.codec != bundle.codec_name:
        found = f"a side was made with codec '{side.codec}', the bundle uses '{bundle.codec_name}'"
        raise InputError(f"Learning from a pair: {found}. Make the pairs with this bundle's codec.")
    if not side.codes:
        raise InputError("Learning from a pair: a side has no codes. Leave it out.")
    ids = bundle.prompt.ids(side.codes)
    return [*ids, bundle.prompt.end_id] if side.finish == "stop" else ids


def split(
    rows: Sequence[Preference], share: float, seed: int
) -> tuple[list[Preference], list[Preference]]:  # fmt: skip
    """Return rows to learn from and rows to hold out: all pairs of a text on one side.

    Which texts are held out depends on them and the seed alone: later votes move none of them across, but
    for what the growing number takes in addition.
    """

    def place(text: str) -> bytes:
        return hashlib.sha256(f"{seed} {text}".encode()).digest()

    texts = sorted({row.text for row in rows}, key=place)
    held = set(texts[: round(share * len(texts))])
    return [row for row in rows if row.text not in held], [row for row in rows if row.text in held]
