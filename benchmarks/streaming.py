"""Sound while codes still come: what windowed decoding costs, what it changes, whether it keeps up.

Of codecs as they are without a streaming decoder; `causal.py` has those with one.

A fixed code stream arrives at the codec's own rate times `--speed`, one code at a time. `decode_stream` gives
out `--step` codes at a time and decodes them between codes before (left) and behind (look-ahead). The clock
runs on: arrival of the codes, and the seconds that decoding takes on top (of wall time, or of the processor
on a machine that others use). First come errors of windows: signal over error against decoding all at once,
over the whole sound and within 10 ms of seams. Then, for the window of `decode_stream`: first audio, how
often a player that starts with the first piece runs dry, and decoding against decoding from the start.

Checked: the length; a paced stream gives the bytes of an unpaced one; a window as wide as the codec sees
gives the whole decode (only the compact codec sees a bounded part); the window of `decode_stream` keeps
`--least-db` at seams; no underrun.

    python benchmarks/streaming.py
    python benchmarks/streaming.py --codecs starter --seconds 6 --rounds 3
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from codec_decode import drawn, random_model
from paired import finish, flags, header, paired
from safetensors.numpy import load_file

import llasa
from llasa.audio import to_int16
from llasa.codec.base import Codec
from llasa.codec.compact import CompactCodec
from llasa.codec.xcodec2 import Xcodec2Codec
from llasa.core import Audio, Codes
from llasa.stream import LEFT, LOOK_AHEAD, decode_stream

SEAM_S = 0.01
EXACT_DB = 35.0  # a whole decode, but for rounding in bfloat16 that depends on the length
STARTER = Path(llasa.__file__).parent / "assets" / "starter"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def opened(name: str, seconds: float, seed: int) -> tuple[Codec, Codes]:
    """Return a codec and the codes of its stream: voices of the starter, or random ones."""
    if name == "starter":
        codec: Codec = CompactCodec(CompactCodec.load(STARTER / "codec").model)  # no streaming decoder
        said = [load_file(path)["codes"] for path in sorted((STARTER / "voices").glob("*.safetensors"))]
        return codec, np.resize(np.concatenate(said), round(seconds * rate_of(codec))).tolist()
    codec = Xcodec2Codec(random_model(name.removeprefix("xcodec2-"), seed), "xcodec2@random")
    return codec, drawn([round(seconds * rate_of(codec))], codec.codebook_size, seed)[0]


def rate_of(codec: Codec) -> float:
    """Return codes a second."""
    return codec.sample_rate / codec.hop_length


def one_by_one(codes: Codes) -> Iterator[Codes]:
    """Yield codes singly, as an engine gives them."""
    return ([code] for code in codes)


def error_db(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return signal over error, dB."""
    error = np.square(found - wanted, dtype=np.float64).sum()
    return float(10 * np.log10(np.square(wanted, dtype=np.float64).sum() / max(error, 1e-20)))


def window_error(codec: Codec, codes: Codes, whole: np.ndarray, window: dict[str, int]) -> dict[str, Any]:
    """Return what a window changes, in dB: over all, at all seams, at the worst seam."""
    pieces = [piece.samples for piece in decode_stream(codec, one_by_one(codes), **window)]
    found, seams = np.concatenate(pieces), np.cumsum([len(piece) for piece in pieces])[:-1]
    reach = round(SEAM_S * codec.sample_rate)
    near = [slice(max(seam - reach, 0), seam + reach) for seam in seams]
    at_seams = [np.concatenate([sound[part] for part in near]) for sound in (found, whole)]
    return window | {
        "snr_db": error_db(found, whole),
        "seams_db": error_db(*at_seams),
        "worst_db": min(error_db(found[part], whole[part]) for part in near),
        "length": len(found) == len(whole),
        "work": (window["left"] + window["step"] + window["look_ahead"]) / window["step"],
    }


def paced(
    codes: Codes, codes_a_s: float, stream: Callable[..., Iterator[Audio]], clock: Callable[[], float]
) -> list[tuple[float, Audio]]:
    """Return pieces and when they are there, in seconds from the first code's being asked for."""
    now, since = 0.0, clock()

    def arriving() -> Iterator[Codes]:
        nonlocal now, since
        for n, code in enumerate(codes):
            now = max(now + clock() - since, (n + 1) / codes_a_s)
            since = clock()
            yield [code]

    return [(now + clock() - since, piece) for piece in stream(arriving())]


def played(pieces: list[tuple[float, Audio]]) -> dict[str, float]:
    """Return when a player starts, how often and how long it waits for more, seconds."""
    end, underruns, waited = pieces[0][0], 0, 0.0
    for ready, piece in pieces:
        underruns, waited = underruns + (ready > end), waited + max(0.0, ready - end)
        end = max(end, ready) + piece.duration_s
    return {"first_audio_s": pieces[0][0], "underruns": underruns, "waited_s": waited, "end_s": end}


def pcm(pieces: Any) -> bytes:
    """Return 16-bit samples, joined."""
    return b"".join(to_int16(piece.samples).tobytes() for piece in pieces)


def report_of(name: str, args: Any) -> tuple[dict[str, Any], list[str]]:
    """Measure one codec; return its report and what failed."""
    codec, codes = opened(name, args.seconds, args.seed)
    whole = codec.decode([codes])[0].samples
    own = {"left": LEFT, "look_ahead": LOOK_AHEAD, "step": args.step}
    windows = [{"left": a, "look_ahead": b, "step": args.step} for a in args.left for b in args.look_ahead]
    table = [window_error(codec, codes, whole, window) for window in [*windows, own]]
    _say(args, f"{name}: {len(codes)} codes, {rate_of(codec):g} a second")
    for row in table:
        _say(args, "  ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    stream, clock = partial(decode_stream, codec, **own), CLOCKS[args.clock]
    again = partial(decode_stream, codec, **own | {"left": len(codes)})
    pieces = paced(codes, args.speed * rate_of(codec), stream, clock)
    ratio = paired(
        lambda: list(stream(one_by_one(codes))), lambda: list(again(one_by_one(codes))), args.rounds
    )
    at_once = paced(
        codes, args.speed * rate_of(codec), lambda came: iter(codec.decode([list(chain(*came))])), clock
    )
    play = {"windowed": played(pieces), "whole": played(at_once)}
    play["from the start"] = played(paced(codes, args.speed * rate_of(codec), again, clock))
    for kind, row in play.items():
        _say(args, f"{kind:16}" + "  ".join(f"{k} {v:.3g}" for k, v in row.items()))
    _say(args, header("windowed", "from 0") + "\n" + ratio.row(f"{name}, decoding"))
    failed = [f"{name}: length with {row}" for row in table if not row["length"]]
    if pcm(piece for _, piece in pieces) != pcm(stream(one_by_one(codes))):
        failed.append(f"{name}: a paced stream has other bytes")
    if table[-1]["worst_db"] < args.least_db:
        failed.append(f"{name}: {table[-1]['worst_db']:.1f} dB at a seam with the default window")
    if play["windowed"]["underruns"]:
        failed.append(f"{name}: {play['windowed']}")
    if isinstance(codec, CompactCodec):
        view = codec.model.config.view
        full = window_error(codec, codes, whole, {"left": view, "look_ahead": view, "step": args.step})
        if full["worst_db"] < EXACT_DB:
            failed.append(f"{name}: all that it sees is not enough: {full}")
    return {"windows": table, "play": play, "decoding": ratio.as_dict()}, failed


@torch.inference_mode()
def main() -> None:
    """Measure each codec."""
    parser = flags(__doc__ or "")
    kinds = ("starter", "xcodec2-small", "xcodec2-full")
    parser.add_argument("--codecs", nargs="+", choices=kinds, default=kinds[:2])
    parser.add_argument("--seconds", type=float, default=20.0, help="of sound")
    parser.add_argument(
        "--speed", type=float, default=1.2, help="codes arrive so many times as fast as played"
    )
    parser.add_argument("--step", type=int, default=25, help="codes given out at a time")
    parser.add_argument("--left", nargs="+", type=int, default=[4, 8, 12, 16, 24, 32, 75])
    parser.add_argument("--look-ahead", nargs="+", type=int, default=[2, 4, 6, 10, 20])
    parser.add_argument("--least-db", type=float, default=25.0, help="at the worst seam, default window")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="what decoding is counted in")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    reports, failed = dict[str, Any](), list[str]()
    for name in args.codecs:
        reports[name], wrong = report_of(name, args)
        failed += wrong
    finish(reports, failed, args.json)


def _say(args: Any, line: str) -> None:
    if not args.json:
        print(line, flush=True)


if __name__ == "__main__":
    main()
