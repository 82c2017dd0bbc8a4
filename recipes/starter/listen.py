"""Word error rates of the starter by a recogniser that nothing was trained against (pocketsphinx).

Systems: `source` (the flite voice itself), `copy` (source through the codec), `say` (the starter speaking
with that voice, effort 1). Transcripts are kept in a folder, so the command resumes; it prints a table and
writes `wer.json`.
"""

import argparse
import hashlib
import json
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import jiwer
import numpy as np
from rich.progress import track

from llasa.audio import loudness
from llasa.core import Audio
from llasa.recognizers.pocketsphinx import PocketsphinxRecognizer
from llasa.text.normalize import normalize

SYSTEMS = ("source", "copy", "say")


def words(text: str) -> str:
    """Return a text as the words that are compared; none where nothing was heard."""
    if not any(map(str.isalnum, text)):
        return ""
    return " ".join(word.strip(",.?!") for word in normalize(text).text.split())


@cache
def _recogniser() -> PocketsphinxRecognizer:
    return PocketsphinxRecognizer()


def hear(audio: Audio) -> str:
    """Return what pocketsphinx hears."""
    return _recogniser().transcribe([audio])[0].text


@cache
def _synthesizer(bundle: str):
    import torch

    from llasa import load

    torch.set_num_threads(1)
    return load(bundle)


@cache
def _codec(folder: str):
    import torch

    from llasa.codec.compact import CompactCodec

    torch.set_num_threads(1)
    return CompactCodec.load(folder)


@cache
def _flite(voice: str):
    from flite import Flite

    return Flite(voice)


def source(voice: str, text: str) -> Audio:
    """Return the flite voice, as loud as the training speech."""
    return loudness(Audio(_flite(voice).say(text).samples.astype(np.float32) / 32768, 16000))


def one(job: tuple[str, str, str, int, str, dict]) -> dict:
    """Return the row of one sentence: what was to be said, what was heard, and how it ended."""
    system, voice, name, index, line, options = job
    row = {"system": system, "voice": name, "index": index, "text": words(line), "finish": "stop"}
    if system == "source":
        sound = source(voice, normalize(line).text)
    elif system == "copy":
        codec = _codec(options["codec"])
        sound = codec.decode(codec.encode([source(voice, normalize(line).text)]))[0]
    else:
        synthesizer = _synthesizer(options["bundle"])
        candidates = synthesizer.candidates(
            line, voice=name, seed=options["seed"] + index, **options["sampling"]
        )
        sound, row["finish"], row["codes"] = (
            candidates[0].audio,
            candidates[0].finish,
            len(candidates[0].codes),
        )
    row["heard"] = words(hear(sound)) if sound is not None and len(sound.samples) else ""
    return row | {"seconds": sound.duration_s if sound is not None else 0.0}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heldout", type=Path, default=Path("tests/data/heldout.txt"))
    parser.add_argument("--lines", type=int, default=200)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--voices", nargs="+", required=True, help="flite voice, or flite=starter name")
    parser.add_argument("--codec", default="src/llasa/assets/starter/codec")
    parser.add_argument("--bundle", default="starter")
    parser.add_argument("--sampling", type=json.loads, default={}, help="JSON of sampling parameters")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    lines = args.heldout.read_text(encoding="utf-8").splitlines()[args.skip : args.skip + args.lines]
    options = {"codec": args.codec, "bundle": args.bundle, "sampling": args.sampling, "seed": args.seed}
    args.out.mkdir(parents=True, exist_ok=True)
    check_same(args.out / "options.json", options | {"bundle_files": sealed(args.bundle)})
    kept = args.out / "transcripts.jsonl"
    rows = (
        [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()] if kept.exists() else []
    )
    done = {(r["system"], r["voice"], r["index"]) for r in rows}
    pairs = [voice.partition("=")[::2] for voice in args.voices]
    jobs = [
        (system, voice, name or voice, index, line, options)
        for system in args.systems for voice, name in pairs for index, line in enumerate(lines, args.skip)
        if (system, name or voice, index) not in done
    ]  # fmt: skip
    with ProcessPoolExecutor(args.processes) as pool, open(kept, "a", encoding="utf-8") as file:
        for row in track(pool.map(one, jobs, chunksize=4), total=len(jobs), description="listening"):
            rows.append(row)
            file.write(json.dumps(row) + "\n")
    wanted = range(args.skip, args.skip + args.lines)
    report([row for row in rows if row["index"] in wanted], args.out)


def sealed(bundle: str) -> str:
    """Return a hash of the weights a bundle speaks with."""
    from llasa.bundle import load_bundle

    files = load_bundle(bundle).manifest.files
    weights = {
        path: digest for path, digest in files.items() if path.startswith(("lm/", "codec/", "voices/"))
    }
    return hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest()[:12]


def check_same(path: Path, options: dict) -> None:
    """Refuse to add to transcripts that other settings made."""
    if path.exists() and (found := json.loads(path.read_text(encoding="utf-8"))) != options:
        raise SystemExit(f"Listening: {path.parent} was made with {found}, not {options}. Use another --out.")
    path.write_text(json.dumps(options) + "\n", encoding="utf-8")


def report(rows: list[dict], out: Path) -> None:
    """Print and write WER, CER, share of bad endings and mean length by voice and system."""
    table = {}
    for system, voice in sorted(
        {(r["system"], r["voice"]) for r in rows}, key=lambda k: (k[1], SYSTEMS.index(k[0]))
    ):
        part = [r for r in rows if (r["system"], r["voice"]) == (system, voice)]
        texts, heard = [r["text"] for r in part], [r["heard"] for r in part]
        table[f"{voice} {system}"] = {
            "wer": 100 * jiwer.wer(texts, heard), "cer": 100 * jiwer.cer(texts, heard),
            "sentences": len(part),
            "bad_endings": 100 * sum(r["finish"] != "stop" or not r["seconds"] for r in part) / len(part),
            "seconds": sum(r["seconds"] for r in part) / len(part),
        }  # fmt: skip
        print(
            f"{voice:10} {system:7} "
            + "  ".join(f"{k} {v:.4g}" for k, v in table[f"{voice} {system}"].items())
        )
    (out / "wer.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
