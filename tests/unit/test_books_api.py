"""Books over HTTP: sent, read while others speak, fetched, said again in part, gone on with after a stop."""

import errno
import io
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import av
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from http.client import HTTPConnection

from llasa.serve import books
from llasa.serve.guard import Rules
from llasa.serve.speaking import Speakers
from tests.speaking import speaking

TEXT = "# One\n\nThe cat sat. It was happy!\n\n# Two\n\nThe dog [pause:0.5] ran."
Served = tuple[str, Speakers]


@pytest.fixture
def served(tiny_bundle: Path, tmp_path: Path) -> Iterator[Served]:
    with speaking(tiny_bundle, books=tmp_path / "books") as found:
        yield found


def asked(
    url: str, method: str, path: str, body: bytes | None = None, **heads: str
) -> tuple[int, Any, bytes]:
    connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
    connection.request(method, path, body, heads)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    told = json.loads(data) if answer.headers.get_content_type() == "application/json" else None
    return answer.status, told, data


def sent(url: str, text: str | bytes = TEXT, name: str = "book.md", **fields: object) -> tuple[int, Any]:
    edge = uuid4().hex
    data = text.encode() if isinstance(text, str) else text
    fields = {"model": "tts-1", "response_format": "flac", **fields}
    parts = [f'name="{key}"\r\n\r\n{value}'.encode() for key, value in fields.items()]
    parts.append(f'name="file"; filename="{name}"\r\n\r\n'.encode() + data)
    start = f"--{edge}\r\nContent-Disposition: form-data; ".encode()
    body = b"".join(start + part + b"\r\n" for part in parts) + f"--{edge}--\r\n".encode()
    heads = {"Content-Type": f"multipart/form-data; boundary={edge}"}
    return asked(url, "POST", "/v1/audio/books", body, **heads)[:2]


def ended(url: str, id: str) -> Any:
    for _ in range(600):
        told = asked(url, "GET", f"/v1/audio/books/{id}")[1]
        if told["status"] in ("done", "failed"):
            return told
        time.sleep(0.05)
    raise AssertionError(told)


def test_a_book_is_read_and_fetched_and_said_again_in_part(served: Served) -> None:
    url, _ = served
    status, told = sent(url, seed=3)
    assert status == 202 and told["lines"]["total"] == 6 and told["status"] in ("queued", "reading")
    place = f"/v1/audio/books/{told['id']}"
    assert asked(url, "GET", f"{place}/content")[0] in (200, 409)
    told = ended(url, told["id"])
    assert told["status"] == "done" and told["lines"] == {"said": 6, "total": 6}, told
    _, _, sound = asked(url, "GET", f"{place}/content")
    with av.open(io.BytesIO(sound)) as file:
        told_of = {key.lower(): value for key, value in file.metadata.items()}
    assert told_of["title"] == "One" and "Synthetic speech" in told_of["comment"]
    assert asked(url, "GET", f"{place}/content?form=vtt")[2].startswith(b"WEBVTT")
    again = partial(asked, url, "POST", f"{place}/redo", **{"Content-Type": "application/json"})
    assert [again(body)[0] for body in (b'{"lines": "9"}', b'{"line": "2"}', b"2")] == [400] * 3
    assert again(b'{"lines": "2"}')[0] == 202
    assert ended(url, told["id"])["status"] == "done"
    assert asked(url, "GET", f"{place}/content")[2] != sound
    assert [one["id"] for one in asked(url, "GET", "/v1/audio/books")[1]["data"]] == [told["id"]]
    assert asked(url, "DELETE", place)[1]["deleted"] is True
    assert asked(url, "GET", place)[0] == 404


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"name": "book.exe"}, ".exe"),
        ({"name": ""}, "file"),
        ({"text": "..."}, "nothing that can be said"),
        ({"text": b"\xff\xfe"}, "damaged"),
        ({"text": b"PK", "name": "b.epub"}, "damaged"),
        ({"text": "[voice:nobody] Hello there."}, "nobody"),
        ({"voice": "nobody"}, "nobody"),
        ({"model": "gpt-9"}, "gpt-9"),
        ({"response_format": "exe"}, "response_format"),
        ({"effort": 99}, "effort 99"),
        ({"temprature": 1}, "temprature"),
    ],
)
def test_what_cannot_be_read_is_refused_and_not_kept(
    served: Served, tmp_path: Path, given: dict[str, Any], found: str
) -> None:
    status, told = sent(served[0], **given)
    assert status == 400 and found in told["error"]["message"], told
    assert str(tmp_path) not in told["error"]["message"]
    assert not list((tmp_path / "books").glob("*"))


def test_no_more_are_kept_than_there_is_room_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "MOST_OWN", 1)
    assert sent(served[0])[0] == 202
    assert sent(served[0])[0] == 429


def test_every_key_sees_its_own(tiny_bundle: Path, tmp_path: Path) -> None:
    with speaking(tiny_bundle, books=tmp_path) as (url, _):
        id = sent(url)[1]["id"]
        theirs = {"Authorization": "Bearer another"}
        assert asked(url, "GET", f"/v1/audio/books/{id}", **theirs)[0] == 404
        assert asked(url, "DELETE", f"/v1/audio/books/{id}", **theirs)[0] == 404
        assert asked(url, "GET", "/v1/audio/books", **theirs)[1]["data"] == []
    with speaking(tiny_bundle, books=tmp_path, rules=Rules(key="word")) as (url, _):
        assert asked(url, "GET", "/v1/audio/books")[0] == 401


def test_a_service_that_was_stopped_goes_on(tiny_bundle: Path, tmp_path: Path) -> None:
    with speaking(tiny_bundle, books=tmp_path) as (url, _):
        id = sent(url, "The cat sat. " * 30, "long.txt")[1]["id"]
        while not (first := sorted(tmp_path.glob("*/lines/*.json"))):
            time.sleep(0.02)
    made = first[0].stat().st_mtime_ns
    damaged, begun = tmp_path / ("a" * 24), tmp_path / ("b" * 24)
    damaged.mkdir()
    (damaged / "ticket.json").write_text("{")
    begun.mkdir()
    (begun / "source.txt").write_text("The cat")
    (tmp_path / id / ".0123456789abcdef.part").write_text("half")
    with speaking(tiny_bundle, books=tmp_path) as (url, _):
        assert ended(url, id)["status"] == "done"
        assert damaged.exists() and not begun.exists() and not list(tmp_path.glob("*/*.part"))
    assert first[0].stat().st_mtime_ns == made


@pytest.mark.fault("R16")
def test_two_services_share_a_folder_not_a_book(tiny_bundle: Path, tmp_path: Path) -> None:
    with speaking(tiny_bundle, books=tmp_path) as (url, _):
        id = sent(url, "The cat sat. " * 30, "long.txt")[1]["id"]
        with speaking(tiny_bundle, books=tmp_path) as (other, _):
            assert asked(other, "GET", "/v1/audio/books")[1]["data"] == []
            assert ended(other, sent(other)[1]["id"])["status"] == "done"
        assert ended(url, id)["status"] == "done"


@pytest.mark.fault("R4")
def test_no_room_for_a_book_is_no_bug(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    status, told = sent(served[0])
    assert status == 429 and "no room on the disk" in told["error"]["message"]
    assert not list((tmp_path / "books").glob("*"))


def test_removing_a_book_that_is_read_leaves_nothing(served: Served, tmp_path: Path) -> None:
    url, _ = served
    id = sent(url, "The cat sat on the mat. " * 30, "long.txt")[1]["id"]
    while not list((tmp_path / "books").glob("*/lines/*.json")):
        time.sleep(0.02)
    assert asked(url, "DELETE", f"/v1/audio/books/{id}")[0] == 200
    for _ in range(200):
        if not list((tmp_path / "books").glob("*")):
            break
        time.sleep(0.02)
    assert not list((tmp_path / "books").glob("*"))
    assert ended(url, sent(url)[1]["id"])["status"] == "done"
