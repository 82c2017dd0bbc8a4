"""What is held out while preparing: whole texts or whole speakers, or what the source itself holds out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from llasa import audio
from llasa.core import Clip
from llasa.data.encode import Options
from llasa.data.prepare import prepare
from llasa.data.shards import Shards
from llasa.errors import ConfigError
from tests.listed import Listed, Plain
from tests.sounds import speechlike


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    made = list[Clip]()
    for n in range(10):
        path = tmp_path / f"clip-{n}.wav"
        audio.write(path, speechlike(0.5, level=0.1 + n / 50))
        made.append(Clip(f"clip-{n}", str(path), f"This is number {n}.", f"speaker {n % 3}"))
    return made


def split(out: Path, rows: Sequence[Clip], **options) -> tuple[set[str], set[str]]:
    prepare(Listed(rows), out, Plain(), Options(**options))
    return {row.id for row in Shards(out)}, {row.id for row in Shards(out, "heldout")}


def test_the_sources_own_split_is_kept(tmp_path: Path, clips: list[Clip]):
    rows = [
        replace(clip, split=name) for clip, name in zip(clips, ["train", "test", "dev", ""] * 3, strict=False)
    ]
    assert split(tmp_path / "own", rows)[1] == {"clip-1", "clip-2", "clip-5", "clip-6", "clip-9"}
    assert split(tmp_path / "none", rows, held_out="none")[1] == set()
    with pytest.raises(ConfigError, match="marks none"):
        split(tmp_path / "no", clips, held_out="source")


@pytest.mark.fault("R7")
def test_the_same_text_is_never_on_both_sides(tmp_path: Path, clips: list[Clip]):
    rows = [
        replace(clip, text=f"Said {'TWICE' if n % 2 else 'twice!'} {n // 2}") for n, clip in enumerate(clips)
    ]
    train, held = split(tmp_path / "out", rows, held_out_share=0.5)
    assert train and held and not {int(id[5:]) // 2 for id in train} & {int(id[5:]) // 2 for id in held}


@pytest.mark.fault("R7")
def test_whole_speakers_are_held_out(tmp_path: Path, clips: list[Clip]):
    train, held = split(tmp_path / "out", clips, held_out="speakers", held_out_share=0.1)
    assert train and held and not {int(id[5:]) % 3 for id in train} & {int(id[5:]) % 3 for id in held}
    for speaker, said in (("", "do not say who speaks"), ("ada", "1 speakers")):
        with pytest.raises(ConfigError, match=said):
            split(tmp_path / "no", [replace(clip, speaker=speaker) for clip in clips], held_out="speakers")
