"""Requests that are spoken together sound as each of them does alone, bit for bit, where rows share no pass.

The full form is `MIXED=64 pytest tests/unit/test_mixed.py -s`, over the starter; it also tells how many codes
are the same where rows do share one (`engines.native.Mode`).
"""

import asyncio
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("uvicorn")

from llasa.bundle import load_bundle
from llasa.core import Codes
from llasa.engines.native import Mode, NativeEngine
from llasa.serve.asked import SpeechRequest
from llasa.serve.guard import Rules
from llasa.serve.speaking import Speakers
from llasa.serve.speech_api import Desk, Limits, make_app
from llasa.synthesizer import Synthesizer
from tests.crowd import Ask, ask
from tests.judging import served

MIXED, SEED = int(os.environ.get("MIXED", "0")), int(os.environ.get("SEED", "0"))
WORDS = ("the cat", "sat on", "a mat", "and looked", "at two", "red birds", "by the", "old stone", "wall")
FORMATS = ("pcm", "wav", "mp3", "flac", "opus", "aac")


def requests(count: int, voices: list[str], efforts: tuple[int, ...]) -> list[Ask]:
    """Return requests of all kinds."""
    draw = random.Random(SEED)
    return [
        Ask({
            "input": " ".join(draw.choices(WORDS, k=draw.randint(1, 5))) + ".", "voice": draw.choice(voices),
            "response_format": FORMATS[n % len(FORMATS)], "seed": draw.randrange(100), "stream": bool(n % 3),
            "effort": draw.choice(efforts), "max_tokens": 150,
        })
        for n in range(count)
    ]  # fmt: skip


@contextmanager
def desk(folder: Path, mode: Mode) -> Iterator[Desk]:
    bundle = load_bundle(folder)
    engine = NativeEngine.load(folder / bundle.manifest.lm.path, mode=mode)
    speaker = Synthesizer(bundle.with_engine(engine))
    speaker.warm_up()
    yield Desk.open(Speakers({bundle.name: speaker}, 4, 400), Limits(64, 64))
    engine.close()


def codes(speakers: Speakers, one: Ask) -> Codes:
    assert isinstance(one.body, dict)
    speech = speakers.begin(SpeechRequest.model_validate({"model": "tts-1"} | one.body))
    for _ in speech.sounds():
        pass
    return [code for part in speech.spoken for code in part.candidate.codes]


def test_each_is_what_it_is_alone(tiny_bundle: Path, bundle_folder: Path) -> None:
    folder, efforts = (bundle_folder, (1, 1, 2, 4)) if MIXED else (tiny_bundle, (1,))
    with desk(folder, "alone") as own, served(make_app(own, Rules())) as url:
        voices = load_bundle(folder).voices.names()
        mixed = requests(MIXED or 12, voices, efforts)

        async def run() -> None:
            alone = [await ask(url, one) for one in mixed]
            together = await asyncio.gather(*(ask(url, one) for one in mixed))
            for one, first, second in zip(mixed, alone, together, strict=True):
                assert first.status == 200 and first.whole, (one, first.status)
                assert first.body == second.body, f"seed {SEED}: {one}"

        asyncio.run(run())


@pytest.mark.skipif(not MIXED, reason="a figure, told with MIXED=64")
def test_how_many_codes_are_the_same_where_rows_share_a_pass(bundle_folder: Path) -> None:
    with desk(bundle_folder, "fast") as own:
        mixed = requests(MIXED, own.speakers.speakers["starter"].bundle.voices.names(), (1,))
        alone = [codes(own.speakers, one) for one in mixed]

        async def run() -> list[Codes]:
            loop = asyncio.get_running_loop()
            futures = [loop.run_in_executor(own.threads, codes, own.speakers, one) for one in mixed]
            return list(await asyncio.gather(*futures))

        pairs = list(zip(alone, asyncio.run(run()), strict=True))
    same = [np.mean([a == b for a, b in zip(*pair, strict=False)]) for pair in pairs]
    print(
        f"{np.mean(same):.3f} of codes at the same place, {sum(a == b for a, b in pairs)} of {MIXED} wholly"
    )
