"""Fits how long a text takes to say; prints the constants of `llasa/scorers/checks.py` and what is left over.

Seconds = tempo of the speaker * (start + phones or letters + words + pauses), in least squares of relative
error. The last lines tell how well a speaker's tempo is known from one recording of his.
"""

import argparse
from pathlib import Path

import numpy as np

from llasa.data.shards import Shards
from llasa.text.marks import inner_marks
from llasa.text.phones import PHONES, Phonemizer
from llasa.text.reading import Reader

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]  # speaker [R], seconds [R], counts [R, F]


def rows(folder: Path, reader: Reader, every: int, unit: str) -> Rows:
    """Return every so many utterances of a prepared folder: one column a phone or one for letters."""
    speakers, seconds, counts = [], [], []
    for row in Shards(folder)[::every]:
        words = reader(row.text, "phones" if unit == "phones" else "characters")
        tokens = [token for word in words for token in word.tokens]
        units = [tokens.count(phone) for phone in PHONES] if unit == "phones" else [len(tokens)]
        speakers.append(row.speaker)
        seconds.append(row.duration_s)
        counts.append([*units, len(words), inner_marks(row.text), 1])
    return np.array(speakers), np.array(seconds), np.array(counts, float)


def fit(speakers: np.ndarray, seconds: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the seconds of each column [F] and the tempo of each row's speaker [R], geometric mean 1."""
    tempo, costs = np.ones(len(seconds)), np.zeros(counts.shape[1])
    for _ in range(8):
        scaled = counts * (tempo / seconds)[:, None]
        costs = np.linalg.solve(scaled.T @ scaled + 1e-3 * np.eye(len(costs)), scaled.sum(0))
        left = np.log(seconds / (counts @ costs))
        found = {name: np.median(left[speakers == name]) for name in np.unique(speakers)}
        middle = np.mean(list(found.values()))
        tempo = np.exp([found[name] - middle for name in speakers])
    return costs, tempo


def adapted_spread(speakers: np.ndarray, expected: np.ndarray, left: np.ndarray, prior_s: float) -> float:
    """Return what is left of the log ratio when the tempo is read off one other row of the speaker."""
    rng, rest = np.random.default_rng(0), []
    for name in np.unique(speakers):
        own = np.flatnonzero(speakers == name)
        said, known = rng.choice(own, 800), rng.choice(own, 800)
        rest.append(left[said] - left[known] * expected[known] / (expected[known] + prior_s))
    return float(np.concatenate(rest).std())


def main() -> None:
    """Fit on phones and on letters."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codes", type=Path, default=Path("recipes/artifacts/codes"))
    parser.add_argument("--phones", type=Path, default=Path("src/llasa/assets/starter/phones"))
    parser.add_argument("--every", type=int, default=4)
    args = parser.parse_args()
    reader = Reader(Phonemizer.load(args.phones))
    for unit, names in (("phones", PHONES), ("letters", ("letter",))):
        speakers, seconds, counts = rows(args.codes, reader, args.every, unit)
        costs, tempo = fit(speakers, seconds, counts)
        print(
            " ".join(f"{k}:{v:.3f}" for k, v in zip((*names, "word", "pause", "start"), costs, strict=True))
        )
        expected = counts @ costs
        left = np.log(seconds / expected)
        within = (left - np.log(tempo)).std()
        print(f"{unit}: {len(left)} rows, sd of log ratio {left.std():.3f}, within speakers {within:.3f}")
        for prior_s in (0.0, 0.25, 0.5, 1.0, 2.0, 4.0):
            print(f"  prior {prior_s} s: {adapted_spread(speakers, expected, left, prior_s):.3f}")


if __name__ == "__main__":
    main()
