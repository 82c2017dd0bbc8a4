"""The studio page in a browser, by the real command: it speaks, shows what was heard, asks no one else."""

import base64
import io
import json
import re
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("gradio", reason="the page needs gradio (pip install 'llasa[studio]')")
pytest.importorskip("playwright", reason="the browser test needs playwright")

from playwright import sync_api

from llasa import audio
from llasa.bundle import load_bundle
from tests.conftest import STARTER
from tests.walks.test_serve_judge import serving

BROWSERS = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
BROWSER = next((path for path in BROWSERS if Path(path).exists()), None)
KEY = "s3cret"
TEXT = "The quick brown fox jumps over the lazy dog."
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason=f"no browser at {' or '.join(BROWSERS)}"),
    pytest.mark.skipif(not (STARTER / "bundle.toml").is_file(), reason="the starter is not built here"),
]


def asked(url: str, path: str = "/", user: str | None = "anybody", **options: Any) -> tuple[int, Any, bytes]:
    """Return status, headers and body of a request with the key, as a browser sends it, or without."""
    login = base64.b64encode(f"{user}:{KEY}".encode()).decode()
    heads = ({"Authorization": f"Basic {login}"} if user else {}) | options.pop("headers", {})
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url + path, headers=heads, **options), timeout=30
        ) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def until(what: Any, wanted: Any, patience_s: float = 20.0) -> Any:
    """Return what a call gives as soon as it is what was wanted, or when patience ends."""
    end = time.monotonic() + patience_s
    while (found := what()) != wanted and time.monotonic() < end:
        time.sleep(0.05)
    return found


def speaking(url: str) -> int:
    return json.loads(asked(url, "/health")[2])["speaking"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service with a key whose page is loaded."""
    uploads = str(tmp_path_factory.mktemp("uploads"))  # the service is killed, and cannot tidy up
    with serving("--max-effort", 8, LLASA_KEY=KEY, TMPDIR=uploads) as (url, _):
        assert until(lambda: asked(url)[0], 200, 90) == 200
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        yield playwright.chromium.launch(executable_path=BROWSER, args=options)


@pytest.fixture
def page(url: str, browser: Any) -> Iterator[Any]:
    """The page, opened; afterwards: it asked nobody else and nothing went wrong in it."""
    context = browser.new_context(http_credentials={"username": "ada", "password": KEY})
    page, asked_for, wrong = context.new_page(), [], []
    page.on("request", lambda request: asked_for.append(request.url))
    page.on("response", lambda answer: answer.status >= 402 and wrong.append(f"{answer.status} {answer.url}"))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda told: wrong.append(told.text) if told.type == "error" else None)
    page.set_default_timeout(90_000)  # two cores may be busy with other tests
    page.goto(url)
    page.locator("#st-text textarea").wait_for()
    yield page
    context.close()
    hosts = {urlsplit(one).netloc for one in asked_for if not one.startswith(("data:", "blob:"))}
    assert wrong == []
    assert hosts == {urlsplit(url).netloc}


def speak(page: Any, text: str = TEXT, effort: int = 1) -> None:
    page.locator("#st-text textarea").fill(text)
    page.get_by_label("number input for Effort").fill(str(effort))
    page.get_by_label("number input for Effort").press("Tab")
    for _ in range(3):  # a page that comes slowly does not hear each click
        try:
            with page.expect_request(_is_asked, timeout=15_000):
                page.get_by_role("button", name="Speak", exact=True).click()
            return
        except sync_api.TimeoutError:
            continue


def _is_asked(request: Any) -> bool:
    return "queue/join" in request.url


def sound(page: Any, id: str = "st-sound") -> Any:
    return page.evaluate(
        "id => { const it = document.getElementById(id);"
        " return it && {at: it.currentTime, of: it.duration, paused: it.paused, live: !!it.dataset.live}; }",
        id,
    )


def test_it_plays_while_words_light_up_and_fits_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    speak(page)
    page.wait_for_function("document.getElementById('st-sound')?.currentTime > 0")
    page.wait_for_selector("[data-ready]")
    page.wait_for_selector(".st-on")
    first = sound(page)
    page.wait_for_function(f"document.getElementById('st-sound').currentTime > {first['at']} + 0.2")
    assert page.locator("[data-words] [data-s]").count() >= 8  # words with times
    assert "".join(page.locator("[data-words]").inner_text().split()).startswith("Thequick")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.wait_for_function("!document.getElementById('st-sound').dataset.live")  # it came to its end
    page.wait_for_function("document.getElementById('st-sound').duration > 1")
    assert sound(page)["of"] < 30
    page.get_by_label("Position in the sound").focus()
    page.keyboard.press("ArrowRight")
    assert until(lambda: sound(page)["at"] > 0, True)


def test_candidates_stand_side_by_side_and_can_be_kept(page: Any) -> None:
    speak(page, effort=4)
    page.wait_for_selector("[data-ready]")
    assert page.locator(".st-card").count() == 4 and page.locator(".st-won").count() == 1
    assert re.match(r"Candidate \d won with 0\.\d+", page.locator(".st-why").inner_text())
    assert page.locator(".st-card").first.locator(".st-text, .st-quiet").count() == 1
    assert page.locator(".st-card dt", has_text="Words").count() > 0  # a scorer's name
    assert page.locator(".st-plot svg .st-line").count() == 2
    page.get_by_role("button", name="Play candidate 2").click()
    page.wait_for_function("document.getElementById('st-1-2').currentTime > 0.1")
    assert sound(page)["paused"] and 0.5 < sound(page, "st-1-2")["of"] < 30
    page.get_by_label("Format").select_option("flac")
    with page.expect_download() as coming:
        page.get_by_role("button", name="Download with receipt").click()
    archive = zipfile.ZipFile(io.BytesIO(Path(coming.value.path()).read_bytes()))
    made, receipt = sorted(archive.namelist())
    assert audio.read(io.BytesIO(archive.read(made))).duration_s > 1
    told = json.loads(archive.read(receipt))
    assert told["text"] == TEXT and len(told["segments"][0]["tried"]) == 4


def test_who_stops_or_leaves_frees_the_place(page: Any, url: str) -> None:
    speak(page, " ".join([TEXT] * 20), 8)
    assert until(lambda: speaking(url), 1) == 1
    page.get_by_role("button", name="Stop").click()
    assert until(lambda: speaking(url), 0) == 0
    page.get_by_text("Nothing said yet").wait_for()
    other = page.context.new_page()
    other.goto(url)
    speak(other, " ".join([TEXT] * 20), 8)
    assert until(lambda: speaking(url), 1) == 1
    other.close()
    assert until(lambda: speaking(url), 0) == 0


def test_the_past_files_errors_and_voices(page: Any, tmp_path: Path) -> None:
    speak(page, "...")
    assert "found" in page.get_by_role("alert").inner_text()
    for text in ("One cat sat.", "Two dogs ran."):
        speak(page, text)
        page.wait_for_selector(f".st-title:has-text('{text}')")
        page.wait_for_selector("[data-ready]")
        page.wait_for_selector("#st-stop", state="hidden")
    page.get_by_role("radio", name="One cat sat.").check()
    page.wait_for_selector(".st-title:has-text('One cat sat.')")

    assert page.locator(".st-card").count() == 0
    speak(page, " Two dogs  ran.", 2)  # the same text with more effort: both are shown
    page.wait_for_selector("h2:has-text('The same text, said otherwise')")
    page.get_by_role("button", name="effort 1").click()
    page.wait_for_function("document.getElementById('st-take-2').currentTime > 0.1")
    assert page.locator("[aria-label$='shown above']").count() == 1

    book = tmp_path / "book.md"
    book.write_text("# First\n\nA lamb.\n\n# Second\n\nA wolf.\n")
    page.locator("input[type=file]").first.set_input_files(book)
    page.wait_for_function("document.querySelector('#st-text textarea').value.includes('A lamb.')")

    reference = load_bundle().voices.get("angus")
    assert reference.reference is not None
    recording = tmp_path / "a.wav"
    recording.write_bytes(audio.encode(reference.reference, "wav"))
    page.get_by_role("button", name="Make a voice").click()
    page.get_by_text("Drop Audio Here").wait_for()  # before that the last place for files is the text's
    page.locator("input[type=file]").last.set_input_files(recording)
    page.get_by_text("Drop Audio Here").wait_for(state="hidden")
    page.get_by_label("What is said in it").fill(reference.text)
    page.get_by_label("Name of the voice").fill("grace")
    page.get_by_label("Statement of consent").fill("I agree. Grace")
    page.get_by_role("button", name="Make the voice").click()
    assert "the consent is not ticked" in page.get_by_role("alert").inner_text()
    page.get_by_label("I am the speaker").check()
    page.get_by_role("button", name="Make the voice").click()
    page.get_by_text("is made and chosen").wait_for()
    assert load_bundle().voices.get("grace").consent == "I agree. Grace"
    assert page.get_by_label("Voice", exact=True).input_value() == "grace"
    load_bundle().voices.remove("grace")


def test_without_the_key_nothing_is_told(url: str) -> None:
    for path in ("/", "/config", "/studio/studio.css", "/gradio_api/info", "/assets/x.js"):
        status, heads, _ = asked(url, path, user=None)
        assert status == 401 and heads["WWW-Authenticate"].startswith("Basic ")
    assert asked(url, headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"})[0] == 403
    assert asked(url, headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})[0] == 200
    assert "default-src 'self'" in asked(url)[1]["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "//etc/passwd", "../../etc/passwd", "%2Fetc%2Fpasswd", "%252Fetc%252Fpasswd",
        "/proc/self/environ", "/tmp/../etc/passwd", "..%2f..%2fetc%2fpasswd", "/etc/./passwd", "file:///etc/passwd",
        "http://127.0.0.1:1/", "https://a.b/c", "%00/etc/passwd", ".", "",
    ],
)  # fmt: skip
def test_no_file_but_uploads_can_be_read(url: str, path: str) -> None:
    status, _, body = asked(url, f"/gradio_api/file={path}")
    assert status in (400, 403, 404) and b"root:" not in body


def test_gradio_is_asked_for_what_the_page_needs_and_fetches_nothing(url: str) -> None:
    for path in ("/gradio_api/proxy=http://127.0.0.1:1/", "/monitoring", "/docs", "/gradio_api/openapi.json"):
        assert asked(url, path)[0] == 404
    for path in ("/gradio_api/run/x", "/gradio_api/call/x", "/gradio_api/component_server", "/login"):
        assert asked(url, path, data=b"{}", method="POST")[0] == 404
    for place in ("http://127.0.0.1:1/a.wav", "/etc/passwd", "a.wav", None):
        named = {"path": place, "meta": {"_type": "gradio.FileData"}}
        sent = json.dumps({"data": [[named]], "fn_index": 0, "session_hash": "a"}).encode()
        heads = {"Content-Type": "application/json"}
        status, _, body = asked(url, "/gradio_api/queue/join", data=sent, headers=heads)
        assert status == 400 and b"not uploaded here" in body
