"""Strangers' sound files, through the routes that take them: refused, whatever is in them.

The full form is `MUTANTS=20000 pytest tests/unit/test_uploads.py -s`; SEED repeats a run, or one mutant:
`python -m tests.uploads SEED NUMBER NUMBER+1`.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")

from llasa.audio import apart
from tests.crowd import asked
from tests.paced import Live, paced
from tests.uploads import attacked, bombs, inline, mutant, upload, wav

SEED, MUTANTS = int(os.environ.get("SEED", "0")), int(os.environ.get("MUTANTS", "200"))


@pytest.fixture(scope="module")
def live(tiny_bundle: Path) -> Iterator[Live]:
    with paced(tiny_bundle) as found:
        yield found


def test_bombs_are_refused(live: Live) -> None:
    before = live.held()
    for number, (name, data) in enumerate(bombs().items()):
        answer = asked(live.url, (upload, inline)[number % 2](data))
        assert answer.status == 400, (name, answer)
        assert "the sound that was sent" in json.loads(answer.body)["error"]["message"], name
    assert live.settled(before) == {}


def test_a_head_that_claims_gigabytes_gets_no_memory(live: Live) -> None:
    claims = wav(claims=0xFFFFFFFF)
    assert len(apart.read_apart(claims).samples) < len(claims)


def test_mutants_end_in_a_refusal_or_a_sound(live: Live) -> None:
    for number in range(2):
        assert asked(live.url, upload(mutant(SEED, number))).status in (201, 400, 409)
    ends, fatal, kib = attacked(SEED, MUTANTS)
    print(f"seed {SEED}: {dict(ends)}, fatal to their process {fatal}, at most {kib >> 10} MiB")
    assert sum(ends.values()) + len(fatal) >= MUTANTS or fatal
    assert kib << 10 < apart.MEMORY + (256 << 20)
    for number in fatal:  # such a file is a refusal, too
        assert asked(live.url, upload(mutant(SEED, number))).status == 400, f"seed {SEED}, mutant {number}"
