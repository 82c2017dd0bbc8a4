"""Real speech for the codec: a folder of audio files becomes one shard without transcripts."""

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile
import soxr
from rich.progress import track


def main() -> None:
    """Write `extra.pcm` and `extra.jsonl`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder of wav, flac, ogg or mp3 files")
    parser.add_argument("folder", type=Path, help="folder of the shards")
    args = parser.parse_args()
    files = sorted(p for p in args.source.rglob("*") if p.suffix in {".wav", ".flac", ".ogg", ".mp3"})
    rows, total = [], 0
    args.folder.mkdir(parents=True, exist_ok=True)
    with open(args.folder / "extra.pcm", "wb") as sound:
        for path in track(files, description="extra audio"):
            samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
            wave = (np.clip(soxr.resample(samples.mean(1), rate, 16000), -1, 1) * 32767).astype(np.int16)
            sound.write(wave.tobytes())
            rows.append({"text": "", "offset": total, "samples": len(wave), "file": path.name})
            total += len(wave)
    (args.folder / "extra.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    print(f"extra: {len(rows)} recordings, {total / 16000 / 3600:.2f} h")


if __name__ == "__main__":
    main()
