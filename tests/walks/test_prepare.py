"""`llasa prepare`, by the real command: a data set as people have it to shards, and what is wrong with it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llasa import audio
from llasa.cli.prepare import logged
from llasa.data.prepare import Progress
from llasa.data.shards import Shards
from tests.conftest import Ran
from tests.sounds import speechlike

Run = Callable[..., Ran]


@pytest.fixture
def ljspeech(tmp_path: Path) -> Path:
    folder = tmp_path / "LJ"
    (folder / "wavs").mkdir(parents=True)
    for n in range(6):
        audio.write(folder / "wavs" / f"LJ-{n}.wav", speechlike(0.5 + n / 20))
    lines = [f"LJ-{n}|Number {n}.|Number {n}." for n in range(6)]
    (folder / "metadata.csv").write_text(
        "\n".join([*lines, "LJ-9|Nobody has this.|It is gone."]), encoding="utf-8"
    )
    return folder


def test_a_data_set_becomes_shards(run: Run, ljspeech: Path, tmp_path: Path, tiny_bundle: Path):
    out = tmp_path / "out"
    asked = ("prepare", ljspeech, out, "--bundle", tiny_bundle, "--set", "shard_rows=3", "--held-out", "none")
    ran = run(*asked)
    assert (ran.code, ran.out) == (0, f"{out}\n")
    assert "6 of 7 rows" in ran.err and "1 missing" in ran.err
    assert [row.text for row in Shards(out)] == [f"Number {n}." for n in range(6)]
    [reject] = [json.loads(line) for line in (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (reject["id"], reject["reason"]) == ("wavs/LJ-9", "missing") and "LJ-9.wav" in reject["place"]
    again = json.loads(run(*asked, "--json").out)
    assert (again["shards"], again["shards_before"], again["rejects"]) == (3, 3, {"missing": 1})
    told = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert (
        told["source"]["kind"] == "ljspeech"
        and told["options"]["shard_rows"] == 3
        and told["made_by"]["llasa"]
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--set", "shard_row=3"), "Did you mean 'shard_rows'?"),
        (("--held-out", "speakers"), "do not say who speaks"),
        (("--held-out", "some"), "held_out"),
        (("--kind", "ljspech"), "ljspeech"),
        (("--recognizer", "pocketsphinx"), "--recognizer, which would change nothing. Add --check"),
        (("--check", "--ray", "--set", "max_s=9"), "--set, --ray, which would change nothing"),
    ],
)
def test_what_is_refused(
    run: Run, ljspeech: Path, tmp_path: Path, tiny_bundle: Path, asked: tuple, said: str
):
    ran = run("prepare", ljspeech, tmp_path / "out", "--bundle", tiny_bundle, *asked)
    assert ran.code == 2 and said in ran.err
    assert not list((tmp_path / "out").glob("[!.]*"))


def test_no_folder(run: Run, ljspeech: Path):
    ran = run("prepare", ljspeech)
    assert ran.code == 2 and "--check" in ran.err


def test_a_signal_has_an_exit_code_of_its_own(ljspeech: Path, tmp_path: Path, tiny_bundle: Path):
    out = tmp_path / "out"
    code = (
        "import sys, time; from llasa.data import encode; real = encode.load\n"
        "def slow(clip, **given):\n"
        "    if clip.id.endswith('LJ-4'): print('there', flush=True); time.sleep(60)\n"
        "    return real(clip, **given)\n"
        "encode.load = slow; from llasa.cli import main; main(sys.argv[1:])"
    )
    asked = ["prepare", str(ljspeech), str(out), "--bundle", str(tiny_bundle), "--set", "shard_rows=2"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *asked], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "there\n"
    os.kill(process.pid, signal.SIGTERM)
    began = time.monotonic()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 4 and "SIGTERM" in said and "again" in said and time.monotonic() - began < 20
    assert len((out / "index.jsonl").read_text().splitlines()) == 2


def test_check_only_reads(run: Run, ljspeech: Path, tmp_path: Path, tiny_bundle: Path):
    before = {path: path.stat().st_mtime_ns for path in ljspeech.rglob("*")}
    ran = run("prepare", ljspeech, "page.html", "--check", "--bundle", tiny_bundle)
    assert (ran.code, ran.out) == (0, "page.html\n")
    assert "6 of 7 rows are usable" in ran.err and "Rows that prepare leaves out" in ran.err
    assert "<html" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert {path: path.stat().st_mtime_ns for path in ljspeech.rglob("*")} == before


def test_check_for_programs(run: Run, ljspeech: Path, tmp_path: Path, tiny_bundle: Path):
    ran = run("prepare", ljspeech, "--check", "--json", "--bundle", tiny_bundle)
    found = json.loads(ran.out)
    assert (ran.code, found["report"], found["kind"]) == (0, "check.html", "ljspeech")
    assert (found["rows"], found["clips"], found["reasons"]) == (7, 6, {"missing": 1})
    assert {"rejects", "clipping", "unread"} <= {check["name"] for check in found["checks"]}
    assert (tmp_path / "check.html").is_file()


def test_a_page_that_cannot_be_written_is_said_first(run: Run, ljspeech: Path, tmp_path: Path):
    ran = run("prepare", ljspeech, tmp_path / "none" / "page.html", "--check", "--bundle", "nowhere")
    assert ran.code == 2 and "there is no folder" in ran.err and "nowhere" not in ran.err


def test_a_log_has_a_line_a_minute(capsys: pytest.CaptureFixture[str]):
    times = iter([0.0, 59.0, 61.0, 61.0, 62.0])
    watch = logged(lambda: next(times))
    for rows in (10, 30, 40):
        watch(Progress(rows, 90, 10, 1, 3600.0, 120.0))
    assert capsys.readouterr().err == (
        "Preparing: 30 of 90 rows, 6 min left, 1.00 h, real-time factor 0.033, 1 rejects\n"
    )
