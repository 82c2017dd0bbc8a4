"""The doctor names every planted fault, nothing else, changes nothing, and its page is whole and harmless."""

import contextlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa.audio import write
from llasa.bundle import Bundle, load_bundle
from llasa.core import Audio, Clip
from llasa.data import doctor, report
from llasa.data.checks import SHOWN, About, Each, Seen, robust_z
from llasa.data.findings import Check, Findings
from llasa.data.sources import open_source
from llasa.data.transcripts import oddities, shown
from llasa.errors import ConfigError, InputError
from llasa.prompt import MARKERS, speech_token
from llasa.recognizers.base import Transcript
from tests.faults.rows import trials
from tests.sounds import RATE, speechlike

GOOD = "the quick brown fox and the lazy dog number {}"


def dataset(root: Path, rows: dict[str, tuple[Audio, dict]]) -> Path:
    """Write sounds and a list of them; a row's facts win."""
    (root / "wavs").mkdir(parents=True)
    lines = []
    for name, (sound, facts) in rows.items():
        write(root / "wavs" / f"{name}.wav", sound)
        row = {
            "id": name,
            "audio": f"wavs/{name}.wav",
            "text": GOOD.format("one " * round(sound.duration_s / 0.12)),
        }
        lines.append(json.dumps({**row, **facts}))
    (root / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def plain(count: int) -> dict[str, tuple[Audio, dict]]:
    # Each is a little longer, so that none sounds as another and all speak at about one rate.
    return {f"good{i}": (speechlike(1.4 + 0.12 * i), {}) for i in range(count)}


def with_silence(sound: Audio, seconds: float) -> Audio:
    quiet = np.zeros(round(seconds * RATE), np.float32)
    return Audio(np.concatenate([quiet, sound.samples, quiet]), RATE)


def check_of(findings: Findings, name: str) -> Check:
    return next(check for check in findings.checks if check.name == name)


def named(findings: Findings, name: str) -> set[str]:
    return {row.id for row in check_of(findings, name).rows}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def opened(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle)


def test_a_good_set_is_good(tmp_path: Path) -> None:
    root = dataset(tmp_path / "set", plain(12))
    before = everything(root)
    found = doctor.check(open_source(root))
    assert {check.name for check in found.checks if check.verdict != "good"} == set()
    assert (found.verdict, found.rows, found.clips, found.reasons) == ("good", 12, 12, {})
    assert everything(root) == before
    assert found.hours == pytest.approx(sum(1.4 + 0.12 * i for i in range(12)) / 3600)
    assert found.rates_hz == {"16000": 12} and found.languages == {"en": 12}


def test_every_planted_fault_is_named_and_nothing_else(tmp_path: Path) -> None:
    loud = speechlike(2.0)
    clipped = Audio(loud.samples.copy(), RATE)
    clipped.samples[::200] = 1.0
    rows = plain(30) | {
        "marker": (speechlike(2.01), {"text": "say <|SPEECH_GENERATION_END|> now and then go on"}),
        "bidi": (speechlike(2.02), {"text": GOOD.format("one " * 16) + "\u202e"}),
        "wide": (speechlike(2.03), {"text": GOOD.format("one " * 15) + "\uff1c|s_1|\uff1e"}),
        "quiet": (speechlike(2.04, level=0.005), {}),
        "clipped": (clipped, {}),
        "ends": (with_silence(speechlike(2.05), 1.3), {}),
        "fast": (speechlike(0.5), {"text": "a very long text " * 20}),
        "slow": (speechlike(8.0), {"text": "oh"}),
        "again": (speechlike(2.06), {"id": "good3"}),
        "Good5": (speechlike(2.07), {"id": "GOOD5"}),
        "copy": (speechlike(1.4), {}),
        "leak1": (speechlike(2.2), {"speaker": "ada", "split": "train"}),
        "leak2": (speechlike(2.5), {"speaker": "ada", "split": "test"}),
        "text2": (speechlike(2.11), {"text": GOOD.format("one "), "split": "test"}),
        "text3": (speechlike(2.13), {"text": GOOD.format("one ").upper(), "split": "train"}),
        "nothing": (speechlike(2.13), {"text": " "}),
        "nul": (speechlike(2.14), {"text": "a\0b"}),
        "gone": (speechlike(2.15), {"audio": "wavs/not there.wav"}),
    }
    found = doctor.check(open_source(dataset(tmp_path / "set", rows)))
    assert named(found, "odd-text") == {"marker", "bidi", "wide"}
    assert named(found, "level") == {"quiet"}
    assert named(found, "clipping") == {"clipped"}
    assert named(found, "ends") == {"ends"}
    assert named(found, "letters") == {"fast", "slow"}
    assert named(found, "ids") == {"good3"}
    assert named(found, "similar-ids") == {"GOOD5"}
    assert named(found, "sounds") == {"copy"}
    assert named(found, "speakers") == {"leak2"}
    assert named(found, "split-texts") == {"text3"}
    assert found.reasons == {"no-text": 1, "bad-text": 1, "missing": 1}
    assert named(found, "rejects") == {"nothing", "nul", "gone"}
    assert found.verdict == "bad"
    json.dumps(found.report())


def test_a_model_says_what_it_cannot_read(opened: Bundle, tmp_path: Path) -> None:
    rows = plain(3) | {
        "signs": (speechlike(2.01), {"text": "smile \u2603 for the camera"}),
        "foreign": (speechlike(2.02), {"language": "xx"}),
        "long": (speechlike(40.0), {}),
    }
    found = doctor.check(open_source(dataset(tmp_path / "set", rows)), bundle=opened)
    assert named(found, "unread") == {"signs", "foreign"}
    assert "\u2603" in check_of(found, "unread").title
    assert named(found, "length") == {"long"}
    assert "ids, 1024 are the most" in check_of(found, "length").rows[0].why


class Parrot:
    """Hears what it is told, clip by clip."""

    name, text_form = "parrot@1", "characters"

    def __init__(self, said: list[str]) -> None:
        self.said, self.sizes = list(said), []

    def transcribe(self, audio):
        self.sizes.append(len(audio))
        return [Transcript(self.said.pop(0)) for _ in audio]


def test_a_recogniser_names_wrong_transcripts_worst_first(opened: Bundle, tmp_path: Path) -> None:
    root = dataset(tmp_path / "set", plain(20))
    texts = [row.text for row in open_source(root).rows()]
    texts[4], texts[11] = "something else", ""
    parrot = Parrot(texts)
    opened._recognizers["parrot"] = parrot
    found = doctor.check(open_source(root), bundle=opened, recognizer="parrot")
    assert [row.id for row in check_of(found, "agreement").rows] == ["good11", "good4"]
    assert check_of(found, "agreement").of == 20 and max(parrot.sizes) == 16
    assert found.spreads[-1].quantiles["50"] == 0
    with pytest.raises(ConfigError, match="recogniser"):
        doctor.check(open_source(root), recognizer="parot")


def test_sounds_without_texts_are_judged_as_sounds(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"{i}.flac", speechlike(1 + 0.1 * i))
    found = doctor.check(open_source(tmp_path))
    assert (found.kind, found.clips, found.verdict) == ("audio", 3, "good")
    assert "odd-text" not in {check.name for check in found.checks}


def test_codes_are_judged_without_sound(opened: Bundle, tmp_path: Path) -> None:
    rows = [{"text": GOOD.format(i), "code": [1] * length} for i, length in enumerate((10, 20, 2000))]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = doctor.check(open_source(tmp_path), bundle=opened)
    assert (found.clips, found.hours) == (3, 0.0)
    assert [row.place for row in check_of(found, "length").rows] == ["rows.jsonl:3"]
    assert "not named" in report.page(found)


def test_a_limit_looks_at_the_first_rows(tmp_path: Path) -> None:
    root = dataset(tmp_path / "set", plain(9))
    assert doctor.check(open_source(root), limit=4).rows == 4


def test_an_empty_set_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"audio": "gone.wav", "text": "x"}\n')
    found = doctor.check(open_source(tmp_path))
    assert (found.clips, found.verdict) == (0, "bad")
    assert "gone.wav" in report.page(found)


def test_the_page_is_whole_and_harmless(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> \u202e <img src=x onerror=alert(1)>"
    rows = plain(5) | {"evil": (speechlike(2.0), {"text": evil, "speaker": "<b>", "id": "<i>evil</i>"})}
    found = doctor.check(open_source(dataset(tmp_path / "set", rows)))
    report.write(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<svg") == len(found.spreads) == 5
    for bad in ("<script", "<img", "<i>evil", "\u202e", "http-equiv=refresh"):
        assert bad not in page
    assert "&lt;script&gt;" in page and "\\u202e" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    for check in found.checks:
        assert f'class="verdict {check.verdict}"' in page
    with pytest.raises(ConfigError):
        report.write(found, tmp_path / "no folder" / "page.html")


def test_only_the_worst_rows_are_kept() -> None:
    check = Each(About("x", "x", "x"), lambda seen: (float(seen.row.id), "it is"))
    for number in range(10 * SHOWN):
        check.see(Seen(Clip(str(number), "", ""), "here"))
    found = check.found()
    assert (found.count, found.of, found.verdict) == (10 * SHOWN, 10 * SHOWN, "bad")
    assert [row.id for row in found.rows] == [str(10 * SHOWN - 1 - i) for i in range(SHOWN)]


def test_robust_z() -> None:
    values = np.array([0.0, 0.1, -0.1, 0.2, -0.2, 9.0])
    scores = robust_z(values)
    assert np.abs(scores[:5]).max() < 2 and scores[5] > 30
    assert (robust_z(np.zeros(5)) == 0).all()


ODD = {
    "<|TEXT_UNDERSTANDING_END|>": "marker",
    "<|s_65535|>": "marker",
    "\uff1c|s_1|\uff1e": "marker",
    "<| s_1 |>": "marker",
    "a\0b": "U+0000",
    f"a{chr(0xD800)}b": "half of a character",
    "a\u202eb": "direction",
    "a\ufeffb": "invisible",
    "a\ufffdb": "decoded wrongly",
    "[laughs] hello": "note",
    "see &amp; hear": "markup",
}


@pytest.mark.parametrize(("text", "said"), ODD.items())
def test_odd_transcripts_are_told(text: str, said: str) -> None:
    assert said in " ".join(oddities(text))


PLAIN = ["Hello, world! It's 5 < 6 | 7 > 3.", "Grüße aus Köln", "你好。", "क\u200d्ष", "a [ b"]


@pytest.mark.parametrize("text", PLAIN)
def test_plain_transcripts_are_not(text: str) -> None:
    assert oddities(text) == []


MARKER_LIKE = st.sampled_from(
    [*MARKERS, speech_token(0), speech_token(31), "<|", "|>", "\0", "\u202e", "\ud800"]
)
HOSTILE = st.lists(MARKER_LIKE | st.text(max_size=20), max_size=12).map("".join)


@pytest.mark.fault("R8")
@settings(max_examples=len(trials(300, 10_000)), deadline=None)
@given(text=HOSTILE)
def test_no_transcript_becomes_a_marker(opened: Bundle, text: str) -> None:
    prompt = opened.prompt
    marks = {*prompt.allowed_token_ids, *prompt.stop_token_ids}
    forms = [text]
    with contextlib.suppress(InputError):
        forms.append(opened.form(text).text)
    for form in forms:
        ids, _ = prompt.text_ids(form)
        assert marks.isdisjoint(ids)
    assert shown(text).isprintable()
    assert all(one.isprintable() for one in oddities(text))


@pytest.mark.fault("R8")
def test_a_megabyte_is_looked_at_in_bounded_time(opened: Bundle) -> None:
    for piece in ("a", "<", "<|", "[", "*a", "&#1", "\u202e", "<|s_1|>"):
        start = time.process_time()
        oddities(piece * (1_000_000 // len(piece)))
        assert time.process_time() - start < 1.0
