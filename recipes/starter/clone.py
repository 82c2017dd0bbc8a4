"""Does the voice come from the prompt? Speaker similarity of cloned speech to its reference and to other
voices.

For each source voice a reference clip is made from a sentence that no shipped voice uses; the starter clones
it and says held-out lines; resemblyzer compares the result with natural clips of every voice. Variants move
pitch and rate of a source voice in ways never trained on. Prints a table and writes `clone.json`.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from flite import Flite
from llasa import load
from llasa import voice as voices
from llasa.core import Audio
from llasa.text.normalize import normalize

REFERENCE = "Most people in the village knew the road along the river by heart."
OTHER = (
    "They walked home slowly after the long and tiring game.",
    "A few birds were singing in the tall trees.",
)
SOURCES = ("rms", "slt", "awb", "kal16")
# voice, stretch, mean pitch in Hz, resampling
VARIANTS = {"slt-deeper": ("slt", 1.0, 0.0, 0.94), "kal16-higher": ("kal16", 0.9, 0.0, 1.06)}


def spoken(text: str, voice: str, stretch: float = 1.0, pitch: float = 0.0, speed: float = 1.0) -> Audio:
    """Return a flite clip."""
    made = Flite(voice, stretch, pitch).say(normalize(text).text).resampled(speed)
    return Audio(made.samples.astype(np.float32) / 32768, 16000)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heldout", type=Path, default=Path("tests/data/heldout.txt"))
    parser.add_argument("--lines", type=int, default=40)
    parser.add_argument("--bundle", default="starter")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    from resemblyzer import VoiceEncoder, preprocess_wav

    encoder = VoiceEncoder("cpu", verbose=False)

    def embed(audio: Audio) -> np.ndarray:
        return encoder.embed_utterance(preprocess_wav(audio.samples, audio.sample_rate))

    synthesizer = load(args.bundle)
    codec = synthesizer.bundle.codec
    settings = {name: (name, 1.0, 0.0, 1.0) for name in SOURCES} | VARIANTS
    # Each voice is known by natural clips other than its reference.
    known = {}
    for name, setting in settings.items():
        mean = np.mean([embed(spoken(text, *setting)) for text in OTHER], axis=0)
        known[name] = mean / np.linalg.norm(mean)
    lines = args.heldout.read_text(encoding="utf-8").splitlines()[: args.lines]
    table = {}
    for name, setting in settings.items():
        made = voices.create("clone", spoken(REFERENCE, *setting), REFERENCE, codec)
        reference = embed(made.reference)
        others = [other for other in SOURCES if other != name]
        rows = []
        for index, line in enumerate(track(lines, description=name)):
            sound = synthesizer.candidates(line, voice=made, seed=index)[0].audio
            if sound is None or sound.duration_s < 0.6:
                rows.append((0.0, 0.0, False, False))
                continue
            found = embed(sound)
            own, rivals = float(found @ known[name]), [float(found @ known[o]) for o in others]
            rows.append(
                (own, float(np.mean(rivals)), own > max(rivals), float(found @ reference) > np.mean(rivals))
            )
        own, rival, best, above = (np.mean(column) for column in zip(*rows, strict=True))
        table[name] = {
            "own": own,
            "others": rival,
            "beats_every_other": 100 * best,
            "reference_beats_mean": 100 * above,
        }
        print(f"{name:14} " + "  ".join(f"{k} {v:.3g}" for k, v in table[name].items()))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "clone.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
