"""What Schemathesis cannot guess of the speech service: models, texts that can be said, files of sound.

Some of the bodies that fit the schema get them, so that what lies behind the first checks is tested too;
which ones, the body itself tells, so that a seed repeats.
"""

import zlib
from typing import Any

import schemathesis

from llasa.audio import encode
from tests.conftest import clip

TEXTS = ("The cat sat.", "One. Two! Three?", "It costs 3.50 at 9:45.", "-" * 50 + "a", "\u0661 \U0001f600 ok")
USUAL = {"voice": "ada", "language": "en", "ref_audio": None, "instructions": ""}
SOUND = encode(clip(1.5), "wav")


@schemathesis.hook
def map_case(context: Any, case: Any) -> Any:
    """Return a case, perhaps with values that mean something here."""
    if case.meta and case.meta.generation.mode.is_positive and isinstance(case.body, dict):
        told = repr(sorted(case.body.items(), key=lambda item: item[0]))
        case.body = _sensible(case.body, zlib.crc32(told.encode(errors="replace")))
    return case


def _sensible(body: dict[str, Any], draw: int) -> dict[str, Any]:
    if "model" in body and draw % 8:
        text = TEXTS[draw // 32 % len(TEXTS)] if draw // 8 % 4 else body.get("input")
        usual = {name: value for name, value in USUAL.items() if name in body and draw // 256 % 4}
        return body | usual | {"model": "tts-1", "input": text}
    if "audio_sample" in body and draw % 12 == 0:
        return body | {"audio_sample": SOUND} | ({"name": f"voice{draw % 50}"} if draw // 12 % 2 else {})
    return body
