"""OpenAI's own client against the speech service: whole, streamed, asynchronous, events, and its errors."""

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile

pytest.importorskip("fastapi")
pytest.importorskip("openai")

import openai

from tests.speaking import speaking

TEXT = "The cat sat. It was happy!"
ASKED = {"model": "tts-1", "input": TEXT, "voice": "ada"}


@pytest.fixture(scope="module")
def url(tiny_bundle: Path) -> Iterator[str]:
    with speaking(tiny_bundle) as (found, _):
        yield f"{found}/v1"


def test_whole_and_streamed(url: str) -> None:
    client = openai.OpenAI(base_url=url, api_key="none")
    whole = client.audio.speech.create(**ASKED, response_format="wav").content
    assert soundfile.info(io.BytesIO(whole)).samplerate == 24_000
    with client.audio.speech.with_streaming_response.create(**ASKED, response_format="pcm") as answer:
        pieces = list(answer.iter_bytes(1024))
    assert len(pieces) > 3 and sum(map(len, pieces)) == 2 * soundfile.info(io.BytesIO(whole)).frames


def test_at_once(url: str) -> None:
    async def run() -> list[int]:
        client = openai.AsyncOpenAI(base_url=url, api_key="none")
        made = await asyncio.gather(*(client.audio.speech.create(**ASKED) for _ in range(4)))
        return [len(one.content) for one in made]

    first, *others = asyncio.run(run())
    assert first > 1000 and all(abs(other - first) < 0.2 * first for other in others)


def test_events(url: str) -> None:
    client = openai.OpenAI(base_url=url, api_key="none")
    with client.audio.speech.with_streaming_response.create(**ASKED, stream_format="sse") as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert "speech.audio.delta" in lines[0] and "speech.audio.done" in lines[-1]


def test_extensions_and_errors(url: str) -> None:
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    first, again = (client.audio.speech.create(**ASKED, extra_body={"seed": 7}).content for _ in range(2))
    assert first == again
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.speech.create(**ASKED | {"voice": "nobody"})
    assert caught.value.type == "invalid_request_error" and "nobody" in caught.value.message
    with pytest.raises(openai.BadRequestError, match="temprature"):
        client.audio.speech.create(**ASKED, extra_body={"temprature": 1})
    assert [one.id for one in client.models.list()][-1] == "gpt-4o-mini-tts"
