"""A walk: recordings to a codec, a second time to see that nothing is done twice, and its check."""

import json
from pathlib import Path

import pytest
import soundfile

from llasa.cli import main
from tests.unit.test_codec_training import RECIPE, tone


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    folder.mkdir()
    for n in range(6):
        tone(folder / f"clip{n}.wav", 1.0 + 0.1 * n, 120 + 15 * n)
    (folder / "broken.wav").write_bytes(b"RIFF but no more")
    return folder


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def test_train_a_codec_go_on_and_check_it(tmp_path, recordings, capsys):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    words = ["train", "codec", recipe, "--out", tmp_path / "out", "--set", f'data.0.path="{recordings}"']
    assert run(*words, "--json") == 0
    told = capsys.readouterr().out
    first = json.loads(told[told.index("{\n") :])
    folder = Path(first["output"])
    assert folder == tmp_path / "out" / "codec" and first["codec"].startswith("compact@")
    rejects = (tmp_path / "out" / "rejects.jsonl").read_text(encoding="utf-8")
    assert [json.loads(row)["id"] for row in rejects.splitlines()] == ["broken"]

    began = (tmp_path / "out" / "stages" / "sound" / "metrics.jsonl").read_text(encoding="utf-8")
    assert run(*words) == 0
    assert (tmp_path / "out" / "stages" / "sound" / "metrics.jsonl").read_text(encoding="utf-8") == began
    assert str(folder) in capsys.readouterr().out

    assert run(*words, "--set", "stages.sound.learning_rate=1e-4") == 2  # not what the run began with
    assert "learning_rate" in capsys.readouterr().err

    picture = tmp_path / "report.png"
    check = ["codec", "check", recordings, "--codec", folder, "--recognizer", "", "--limit", 3]
    assert run(*check, "-o", picture, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["codec"] == first["codec"] and found["clips"] == 3 and len(found["passages"]) == 3
    assert [reject["id"] for reject in found["rejected"]] == ["broken"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_check_hears_one_file_through_the_starter(tmp_path, capsys):
    sound = tone(tmp_path / "tone.wav", 1.2, 150)
    assert run("codec", "check", sound, "--recognizer", "") == 0
    assert capsys.readouterr().out.startswith("compact@")
    assert soundfile.info(sound).duration == pytest.approx(1.2)


def test_what_is_wrong_is_told(tmp_path, capsys):
    assert run("train", "codec", tmp_path / "none.toml") == 2
    assert "Check the path" in capsys.readouterr().err
    assert run("codec", "check", tmp_path / "none.wav", "--recognizer", "") == 2
    assert run("codec", "check", tone(tmp_path / "a.wav", 1, 99), "--codec", tmp_path) == 2
    assert "config.json" in capsys.readouterr().err
