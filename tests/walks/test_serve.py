"""`llasa serve`, by the real command: it speaks to who asks, and ends when asked to."""

import json
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from llasa.cli.serve import _studio
from tests.conftest import Ran
from tests.walks.test_serve_judge import Run, serving


def test_it_speaks_and_ends_when_asked_to(tiny_bundle: Path) -> None:
    with serving("--bundle", tiny_bundle) as (url, own):
        body = json.dumps({"model": "tts-1", "input": "The cat sat.", "response_format": "wav"}).encode()
        asked = urllib.request.Request(f"{url}/v1/audio/speech", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            data = answer.read()
        assert data[:4] == b"RIFF" and len(data) > 1000
        own.send_signal(signal.SIGTERM)
        assert own.wait(20) == 0


def test_a_page_that_is_open_does_not_keep_it_and_uploads_are_gone(tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the page needs gradio")
    with serving("--bundle", tiny_bundle, TMPDIR=str(tmp_path)) as (url, own):
        until = time.monotonic() + 60
        while not _there(url) and time.monotonic() < until:
            time.sleep(0.2)
        data = (
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nabc\r\n--x--\r\n'
        )
        heads = {"Content-Type": "multipart/form-data; boundary=x"}
        sent = urllib.request.Request(f"{url}/gradio_api/upload", data, heads)
        [path] = json.loads(urllib.request.urlopen(sent, timeout=30).read())
        [folder] = tmp_path.glob("llasa-studio-*")
        assert Path(path).is_relative_to(folder)
        with urllib.request.urlopen(f"{url}/gradio_api/file={path}", timeout=30) as answer:
            assert answer.read() == b"abc"
        with urllib.request.urlopen(f"{url}/gradio_api/heartbeat/a", timeout=30) as open_page:
            assert open_page.readline()
            own.send_signal(signal.SIGTERM)
            began = time.monotonic()
            open_page.read()  # to its end
            assert time.monotonic() - began < 8  # later uvicorn would cut it off
        assert own.wait(30) == 0
        assert not folder.exists()


def _there(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=30).status == 200
    except urllib.error.HTTPError as error:
        assert error.code == 503 and b"being loaded" in error.read()
        return False


def test_without_a_page_there_is_the_api_alone(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving("--bundle", tiny_bundle, "--no-page") as (url, _):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(url, timeout=30)
        assert urllib.request.urlopen(f"{url}/health", timeout=30).status == 200
    monkeypatch.setattr("llasa.cli.serve.find_spec", lambda name: None)
    assert _studio(None) is None  # type: ignore[arg-type]
    assert "pip install 'llasa[studio]'" in capsys.readouterr().err


def test_what_cannot_be_served_is_told_before_it_listens(run: Run, tiny_bundle: Path) -> None:
    twice: Ran = run("serve", "--bundle", tiny_bundle, "--bundle", tiny_bundle, "--port", 0)
    assert twice.code != 0 and "two bundles of the name" in twice.err
    far = ("--engine", "remote:http://127.0.0.1:9#m")
    both = run("serve", *far, "--bundle", tiny_bundle, "--bundle", "starter", "--port", 0)
    assert both.code == 2 and "for 2 bundles" in both.err
    open_to_all = run("serve", "--host", "0.0.0.0")
    assert open_to_all.code != 0 and "LLASA_KEY" in open_to_all.err
