"""The files under `deploy/`: what they start is what the command line takes."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from llasa.cli.serve import serve

DEPLOY = Path(__file__).parents[2] / "deploy"
NEEDS_A_KEY = "--host"


def commands() -> dict[str, list[str]]:
    services: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    found = {name: one["command"] for name, one in services.items() if name != "vllm"}
    found["Dockerfile"] = json.loads(re.findall(r"^CMD (.*)$", (DEPLOY / "Dockerfile").read_text(), re.M)[-1])
    started = re.search(r"^ExecStart=\S*/llasa (.*)$", (DEPLOY / "llasa.service").read_text(), re.M)
    assert started is not None
    return found | {"llasa.service": started[1].split()}


@pytest.mark.parametrize(("place", "words"), commands().items())
def test_what_is_started_is_what_can_be_started(place: str, words: list[str]) -> None:
    verb, *rest = words
    flags = {word.split("=")[0] for word in rest if word.startswith("--")}
    known = {f"--{name.replace('_', '-')}" for name in inspect.signature(serve).parameters}
    assert verb == "serve" and flags <= known, flags - known


def test_what_others_reach_has_a_key() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for name, one in services.items():
        assert all(port.startswith("127.0.0.1:") for port in one.get("ports", [])), name
        if NEEDS_A_KEY in str(one["command"]):
            assert any(key.endswith("KEY") and ":?" in value for key, value in one["environment"].items()), (
                name
            )
