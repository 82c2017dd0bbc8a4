"""A corpus with all that is bad in it: rejects with reasons, bounded memory, nobody on both sides."""

import os
import random
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llasa import audio
from llasa.core import Clip
from llasa.data.encode import Options
from llasa.data.heldout import same
from llasa.data.prepare import prepare
from llasa.data.shards import Shards
from tests.faults.rows import again, drawn, trials
from tests.faults.zygote import Zygote
from tests.listed import Listed, Plain
from tests.sounds import speechlike
from tests.unit.test_sounds import BAD, header

Reached = Callable[[int, int], None]


@pytest.mark.fault("R6")
def test_bad_sounds_among_good_ones(zygote: Zygote, tmp_path: Path, reached: Reached) -> None:
    for name, (data, _) in BAD.items():
        (tmp_path / f"{name}.wav").write_bytes(data)
    frames = 10 * 3600 * 16_000
    (tmp_path / "ten hours.wav").write_bytes(header(frames))
    os.truncate(tmp_path / "ten hours.wav", 44 + 2 * frames)  # of which nothing is on the disk
    for n in range(20):
        audio.write(tmp_path / f"good-{n}.wav", speechlike(0.4, level=0.1 + n / 50))
    ended, idle = zygote.run("corpus", tmp_path), zygote.run("nothing", tmp_path / "idle")
    expected = {name: reason for name, (_, reason) in BAD.items()} | {"ten hours": "too-long"}
    assert ended.told == expected, ended
    assert ended.mib - idle.mib < 100
    reached(len(expected), len(expected))


FORMS, SPLITS = ("NFC", "NFD", "NFKC", "NFKD"), ("train", "heldout")
SPEAKERS = ("José", "josé", "ADA", "Ada", "Ben", "Ｂｅｎ", "Eva", "Ida", "straße", "STRASSE")  # noqa: RUF001


def written(name: str, draw: random.Random) -> str:
    """Return a name as somebody else may write it."""
    return draw.choice((str.upper, str.lower, str))(unicodedata.normalize(draw.choice(FORMS), name))


@pytest.mark.fault("R7")
def test_nobody_and_no_text_is_on_both_sides(tmp_path: Path, reached: Reached) -> None:
    for n in range(24):
        audio.write(tmp_path / f"{n}.wav", speechlike(0.4, level=0.1 + n / 50))
    for number in (made := trials(3, 100)):
        draw = drawn("sides", number)

        rows = [
            Clip(
                f"{n}",
                str(tmp_path / f"{n}.wav"),
                written(f"Ça va, numéro {n // 3} ?", draw),
                written(draw.choice(SPEAKERS), draw),
            )
            for n in range(24)
        ]
        rows += [replace(rows[0], id="copy"), replace(rows[5], id=unicodedata.normalize("NFKD", "5"))]
        for rule, told in (("speakers", "speaker"), ("text", "text")):
            out = tmp_path / f"{rule}-{number}"
            options = Options(shard_rows=8, held_out=rule, held_out_share=0.3)
            done = prepare(Listed(rows), out, Plain(), options, max_rejects=1.0)
            train, held = ({same(getattr(row, told)) for row in Shards(out, split)} for split in SPLITS)
            assert train and not train & held, f"{again(number)}: {rule}: {train & held}"
            assert done.kept == 24 and sum(done.rejects.values()) == 2
    reached(len(made), len(made))
