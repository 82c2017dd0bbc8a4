"""Makes `codec_features.npz`: what transformers' own feature extractors give for a few formula-made sounds.

They need torchaudio, which this project's environment must not have. In one that has torch, torchaudio and
transformers 5.23 (only the Python part of torchaudio is used), run: python tests/golden/codec_features.py
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("codec_features.npz")


def sounds() -> dict[str, np.ndarray]:
    """Return float32 sounds at 16 kHz by name; the lengths are around multiples of 320."""
    noise = noise_of(6000)
    t = np.arange(8000) / 16_000
    chirp = 0.5 * np.sin(2 * np.pi * t * (50 + 7000 * t)) + 0.2  # an offset, as bad microphones give
    found = {f"noise {n}": 0.2 * noise[:n] for n in (1, 319, 320, 321, 640, 960, 5000)}
    found |= {"chirp": chirp, "near silence": 1e-6 * noise[:3200], "silence": np.zeros(1000)}
    return {name: sound.astype(np.float32) for name, sound in found.items()}


def noise_of(n_samples: int) -> np.ndarray:
    """Return noise in [-1, 1] that is the same everywhere: a linear congruential generator."""
    state, values = 1, []
    for _ in range(n_samples):
        state = (1_103_515_245 * state + 12_345) % 2**31
        values.append(state / 2**30 - 1)
    return np.array(values)


def main() -> None:
    from transformers import NeuCodecFeatureExtractor, Xcodec2FeatureExtractor

    found = {}
    for kind, extractor in (("xcodec2", Xcodec2FeatureExtractor()), ("neucodec", NeuCodecFeatureExtractor())):
        for name, sound in sounds().items():
            if kind == "neucodec" and len(sound) < 320:
                continue  # fails: no frame fits
            made = extractor(sound, sampling_rate=16_000, return_tensors="pt")
            found[f"{kind} {name}"] = made["input_features"][0].numpy()
            found[f"{kind} {name}, samples"] = np.array(made["input_values"].shape[-1])
    np.savez_compressed(FILE, **found)


if __name__ == "__main__":
    main()
