"""A codec's streaming decoder beside its own: what it costs, how soon it sounds, what it leaves of quality.

Three ways to decode the same codes: `full`, all at once as `llasa say` does; `windowed`, as a codec without a
streaming decoder is streamed; `causal`, each code once. Codes are held-out lines as the bundle draws them,
its voices in turn, and with `--recordings` codec copies of recordings. Pieces grow as in `llasa.flow`.

Quality, a line each: STOI and the distance of log-mels (L1, nats) to the sound of `full` and to the
recording, and the words that recognisers get wrong. A ratio is that of means over lines, its interval that of
lines drawn again. Seams: signal over error within 10 ms of them, pieces against decoding all at once by the
same decoder. First audio: codes come at `--speed` times the codec's rate, seconds from the first code's being
asked for; `full` waits for the last. Work: processor seconds a second of sound, in turns.

Checked: the length; in float32, causal pieces are the whole, to `--exact-db`.

    python benchmarks/causal.py
    python benchmarks/causal.py --lines 30 --codec out/runs/streaming/codec --recordings FOLDER
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from paired import finish, flags, header, paired
from pystoi import stoi
from rich.console import Console
from rich.progress import track
from streaming import CLOCKS, SEAM_S, error_db, paced, played, rate_of

import llasa
from llasa import flow
from llasa.audio import resample
from llasa.codec.compact import CompactCodec
from llasa.core import Audio, Candidate, Codes, Utterance
from llasa.engines.base import Step
from llasa.metrics import bootstrap
from llasa.scorers.wer import RATES, ErrorRate
from llasa.stream import FIRST_LOOK_AHEAD, decode_stream, held_back
from llasa.text.reading import Unit
from llasa.train.codec.crops import pieces_of, whole

Decode = Callable[[Iterable[Codes], Codes | None], Iterator[Audio]]
RECOGNIZERS: dict[str, Unit | None] = {"pocketsphinx": "words", "bundle": None}  # and what is counted
MOST_S = 12.0  # of a recording


@dataclass(frozen=True)
class Line:
    """Codes to decode. said: what they say, None if unknown. source: the recording that they copy."""

    codes: Codes
    context: Codes | None = None
    said: Utterance | None = None
    source: Audio | None = None


def drawn(synthesizer: llasa.Synthesizer, texts: Sequence[str], seed: int) -> list[Line]:
    """Return held-out lines as the bundle draws them, its voices in turn; those that end."""
    voices = sorted(path.stem for path in (synthesizer.bundle.folder / "voices").glob("*.safetensors"))
    made = []
    for number, text in enumerate(track(texts, "drawing", console=Console(stderr=True))):
        [one] = synthesizer.speak(text, voices[number % len(voices)], seed + number)
        said = one.candidate.utterance
        if one.candidate.finish == "stop" and said.voice:
            made.append(Line(one.candidate.codes, said.voice.codes, said))
    return made


def copied(codec: CompactCodec, place: str, count: int) -> list[Line]:
    """Return codec copies of recordings, spread over a source as `llasa prepare` takes."""
    made = []
    for _, sound in whole(pieces_of(place, None)[0], count):
        sound = resample(sound, codec.sample_rate)
        source = Audio(sound.samples[: round(MOST_S * codec.sample_rate)], codec.sample_rate)
        made.append(Line(codec.encode([source])[0], source=source))
    return made


@dataclass(frozen=True)
class Coming:
    """A request whose codes come one by one."""

    codes: Iterable[Codes]

    def __iter__(self) -> Iterator[Step]:
        return (Step(0, list(some)) for some in self.codes)


def in_pieces(codec: CompactCodec, codes: Iterable[Codes]) -> Iterator[Codes]:
    """Yield codes in the pieces that `llasa.flow` gives to decoding."""
    sizes = flow.sizes(rate_of(codec), held_back(codec))
    return flow.pieces(Coming(codes), lambda ids: ids, sizes)  # type: ignore[arg-type]


def decoders(codec: CompactCodec) -> dict[str, Decode]:
    """Return the three ways to decode codes that come one by one."""
    plain = CompactCodec(codec.model, codec.name)

    def full(codes: Iterable[Codes], context: Codes | None) -> Iterator[Audio]:
        yield plain.decode([[code for some in codes for code in some]], context)[0]

    def windowed(codes: Iterable[Codes], context: Codes | None) -> Iterator[Audio]:
        pieces, ahead = in_pieces(plain, codes), FIRST_LOOK_AHEAD
        return decode_stream(plain, pieces, context, first_look_ahead=ahead)

    def causal(codes: Iterable[Codes], context: Codes | None) -> Iterator[Audio]:
        return decode_stream(codec, in_pieces(codec, codes), context)

    return {"full": full, "windowed": windowed, "causal": causal}


def singly(codes: Codes) -> Iterator[Codes]:
    """Yield codes one by one."""
    return ([code] for code in codes)


def seams_db(pieces: Sequence[np.ndarray], wanted: np.ndarray, reach: int) -> float:
    """Return signal over error near seams, dB; NaN where there is none."""
    found, ends = np.concatenate(pieces), np.cumsum([len(piece) for piece in pieces])[:-1]
    near = [slice(max(end - reach, 0), end + reach) for end in ends]
    if not near:
        return nan
    return error_db(*(np.concatenate([sound[part] for part in near]) for sound in (found, wanted)))


class Measured:
    """What was measured of each line: name of the measure -> decoder -> [lines]."""

    def __init__(self, codec: CompactCodec) -> None:
        self.codec, self.rows = codec, dict[str, dict[str, list[float]]]()
        self.failed: list[str] = []

    def put(self, name: str, decoder: str, value: float) -> None:
        """Take one value."""
        self.rows.setdefault(name, {}).setdefault(decoder, []).append(value)

    def line(self, line: Line, hear: dict[str, ErrorRate]) -> None:
        """Decode and measure one line."""
        sounds = dict[str, np.ndarray]()
        for name, decode in decoders(self.codec).items():
            pieces = [piece.samples for piece in decode(singly(line.codes), line.context)]
            sounds[name] = np.concatenate(pieces)
            if len(sounds[name]) != len(line.codes) * self.codec.hop_length:
                self.failed.append(f"{name}: {len(sounds[name])} samples of {len(line.codes)} codes")
            if name != "full":
                self._seams(name, pieces, line, sounds["full"])
        wanted = {"full": sounds["full"]} | ({"source": line.source.samples} if line.source else {})
        for name, sound in sounds.items():
            for kind, other in wanted.items():
                if name != kind:
                    self._near(name, kind, sound, other)
            self._heard(name, line, sound, hear)
        if line.source:
            self._heard("source", line, line.source.samples, hear)

    def _seams(self, name: str, pieces: list[np.ndarray], line: Line, full: np.ndarray) -> None:
        whole = full
        if name == "causal":
            assert self.codec.causal is not None
            whole = self.codec.causal.decode([line.codes], line.context)[0].samples
        reach = round(SEAM_S * self.codec.sample_rate)
        self.put("seams, dB", name, seams_db(pieces, whole, reach))
        self.put("all, dB", name, error_db(np.concatenate(pieces), whole))

    def _near(self, name: str, kind: str, found: np.ndarray, wanted: np.ndarray) -> None:
        size = min(len(found), len(wanted)) // self.codec.hop_length * self.codec.hop_length
        self.put(f"STOI to {kind}", name, float(stoi(wanted[:size], found[:size], self.codec.sample_rate)))
        one, other = (self.codec.model.log_mel(torch.tensor(x[:size])[None]) for x in (found, wanted))
        self.put(f"log-mel L1 to {kind}", name, (one - other).abs().mean().item())

    def _heard(self, name: str, line: Line, sound: np.ndarray, hear: dict[str, ErrorRate]) -> None:
        for kind, scorer in hear.items() if line.said else ():
            audio = Audio(sound, self.codec.sample_rate)
            [score] = scorer.score([Candidate(line.said, line.codes, "stop", audio=audio)])  # type: ignore
            rate = RATES[scorer.unit]
            self.put(f"{rate}, {kind}", name, score.measures[rate])


def told(rows: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return means with intervals, and ratios to `full`, or to `windowed` of what is compared with `full`."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for measure, by in rows.items():
        middle = _median if "dB" in measure else _mean  # pieces that are the whole to the bit have no limit
        found[measure] = {name: vars(bootstrap(middle, values)) for name, values in by.items()}
        base = by.get("full") or by.get("windowed")
        for name, values in by.items():
            if base is not values and base and "dB" not in measure:
                ratio = bootstrap(_ratio, np.stack([values, base], 1))
                found[measure][f"{name} / {'full' if 'full' in by else 'windowed'}"] = vars(ratio)
    return found


def _mean(table: np.ndarray) -> float:
    return float(np.nanmean(table))


def _median(table: np.ndarray) -> float:
    return float(np.nanmedian(table))


def _ratio(table: np.ndarray) -> float:
    return float(table[:, 0].mean() / max(table[:, 1].mean(), 1e-12))


def first_audio(codec: CompactCodec, lines: Sequence[Line], speed: float, clock: str) -> dict[str, Any]:
    """Return seconds until the first piece, ratios of them, and how often a player runs dry, by decoder."""
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in decoders(codec)}
    for number, line in enumerate(lines):
        ways = list(decoders(codec).items())
        for name, decode in ways[:: 1 if number % 2 else -1]:
            stream = lambda came, decode=decode, line=line: decode(came, line.context)  # noqa: E731
            rows[name].append(played(paced(line.codes, speed * rate_of(codec), stream, CLOCKS[clock])))
    firsts = {name: [one["first_audio_s"] for one in some] for name, some in rows.items()}
    found: dict[str, Any] = {name: vars(bootstrap(np.median, some)) for name, some in firsts.items()}
    for name in ("full", "causal"):
        found[f"{name} / windowed"] = vars(
            bootstrap(
                lambda t: float(np.median(t[:, 0] / t[:, 1])), np.stack([firsts[name], firsts["windowed"]], 1)
            )
        )
    return found | {
        f"underruns, {name}": sum(one["underruns"] for one in some) for name, some in rows.items()
    }


def work(codec: CompactCodec, lines: Sequence[Line], rounds: int) -> dict[str, Any]:
    """Return processor seconds a second of sound and ratios to `causal`, in turns."""
    ways = decoders(codec)
    length_s = sum(len(line.codes) for line in lines) / rate_of(codec)

    def run(name: str) -> Callable[[], None]:
        def go() -> None:
            for line in lines:
                list(ways[name](singly(line.codes), line.context))

        return go

    found: dict[str, Any] = {"seconds": length_s}
    for name in ("windowed", "full"):
        ratio = paired(run("causal"), run(name), rounds)
        found[f"{name} / causal"] = ratio.as_dict()
        found["causal, cpu s a s"], found[f"{name}, cpu s a s"] = (
            ratio.a_cpu_s / length_s,
            ratio.b_cpu_s / length_s,
        )
        print(header("causal", name) + "\n" + ratio.row("decoding"), flush=True)
    return found


def exact(codec: CompactCodec, lines: Sequence[Line]) -> float:
    """Return the least signal over error of causal pieces in float32 against the whole, dB."""
    causal = codec.causal
    assert causal is not None
    narrow, causal._decode_dtype = causal._decode_dtype, torch.float32
    causal.__dict__.pop("_decoding", None)
    found = []
    for line in lines:
        pieces = decoders(codec)["causal"](singly(line.codes), line.context)
        whole = causal.decode([line.codes], line.context)[0].samples
        found.append(error_db(np.concatenate([piece.samples for piece in pieces]), whole))
    causal._decode_dtype = narrow
    causal.__dict__.pop("_decoding", None)
    return min(found)


@torch.inference_mode()
def main() -> None:
    """Measure."""
    parser = flags(__doc__ or "")
    parser.add_argument("--bundle", default="starter")
    parser.add_argument(
        "--codec", help="folder of a codec with a streaming decoder; the bundle's own if absent"
    )
    parser.add_argument("--texts", type=Path, default=Path("tests/data/heldout.txt"))
    parser.add_argument("--lines", type=int, default=100)
    parser.add_argument("--recordings", help="sound to copy, as `llasa prepare` takes")
    parser.add_argument("--copies", type=int, default=40, help="recordings to copy")
    parser.add_argument("--timed", type=int, default=10, help="lines that are timed")
    parser.add_argument(
        "--speed", type=float, default=4.0, help="codes arrive so many times as fast as played"
    )
    parser.add_argument("--clock", choices=CLOCKS, default="cpu", help="what decoding is counted in")
    parser.add_argument("--exact-db", type=float, default=80.0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    synthesizer = llasa.load(args.bundle, device="cpu")
    codec = CompactCodec.load(args.codec) if args.codec else synthesizer.bundle.codec
    if not isinstance(codec, CompactCodec) or codec.causal is None:
        raise SystemExit(f"{codec.name} has no streaming decoder. Name another with --codec.")
    bundle = synthesizer.bundle
    hear = {
        name: ErrorRate(bundle.recognizer(name), bundle.reader, unit) for name, unit in RECOGNIZERS.items()
    }
    lines = drawn(synthesizer, args.texts.read_text(encoding="utf-8").splitlines()[: args.lines], args.seed)
    sets = {"drawn lines": lines}
    if args.recordings:
        sets["copies of recordings"] = copied(codec, args.recordings, args.copies)
    report, failed = dict[str, Any](), list[str]()
    for name, some in sets.items():
        measured = Measured(codec)
        for line in track(some, name, console=Console(stderr=True)):
            measured.line(line, hear)
        report[name], failed = told(measured.rows) | {"lines": len(some)}, failed + measured.failed
        _print(args, name, report[name])
    report["exact, dB"] = exact(codec, lines[: args.timed])
    _print(args, "float32, pieces against the whole", {"least dB": report["exact, dB"]})
    if report["exact, dB"] < args.exact_db:
        failed.append(f"causal pieces are {report['exact, dB']:.1f} dB from the whole in float32")
    report["look-ahead, codes"] = codec.causal.model.config.look_ahead / codec.hop_length
    report["first audio, s"] = first_audio(codec, lines[: args.timed], args.speed, args.clock)
    _print(args, f"first audio, s, codes at {args.speed:g} times real time", report["first audio, s"])
    report["work"] = work(codec, lines[: args.timed], args.rounds)
    _print(args, "work", {k: v for k, v in report["work"].items() if not isinstance(v, dict)})
    finish(report, failed, args.json)


def _print(args: Any, title: str, rows: dict[str, Any]) -> None:
    """Print a table of estimates, nested or not."""
    if args.json:
        return
    print(f"\n{title}")
    for name, value in rows.items():
        parts = value if isinstance(value, dict) and "value" not in value else {"": value}
        for part, one in parts.items():
            shown = (
                f"{one['value']:.4g} [{one['low']:.4g}, {one['high']:.4g}]"
                if isinstance(one, dict)
                else f"{one:.4g}"
            )
            print(f"  {name:28} {part:22} {shown}", flush=True)


if __name__ == "__main__":
    main()
