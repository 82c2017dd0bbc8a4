"""`llasa serve`, by the real command: it speaks to who asks, and ends when asked to."""

import json
import signal
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

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


def test_what_cannot_be_served_is_told_before_it_listens(run: Run, tiny_bundle: Path) -> None:
    twice: Ran = run("serve", "--bundle", tiny_bundle, "--bundle", tiny_bundle, "--port", 0)
    assert twice.code != 0 and "two bundles of the name" in twice.err
    far = ("--engine", "remote:http://127.0.0.1:9#m")
    both = run("serve", *far, "--bundle", tiny_bundle, "--bundle", "starter", "--port", 0)
    assert both.code == 2 and "for 2 bundles" in both.err
    open_to_all = run("serve", "--host", "0.0.0.0")
    assert open_to_all.code != 0 and "LLASA_KEY" in open_to_all.err
