"""Trains the network of the scorer `manner` and tells what it is worth on other voices, beside `prosody`.

    python recipes/grpo/manner.py manner.safetensors

Natural melodies are those of prepared speech. Others are made of them: flattened (worth less the flatter),
made wild, and mixed up: the same tones in the order of other words. The test plants `monotone` of
`llasa.defects` in the sound of a speaker that was not trained on, and passes all through the codec, so that
nothing but the melody tells.
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor

from llasa import load
from llasa.bundle import Bundle
from llasa.core import Audio, Candidate, Utterance, Voice
from llasa.data.shards import Row, Shards
from llasa.defects import DEFECTS
from llasa.scorers.base import Scorer
from llasa.scorers.manner import Manner, Network, melody, own_range, relative
from llasa.scorers.prosody import Prosody

HELD_OUT = "slt"  # the speaker that is not trained on, whatever is made of her
BATCH = 64


def drawn(rows: Shards, speakers: Sequence[str], count: int) -> dict[str, list[Row]]:
    """Return the first rows of each speaker."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.speaker in speakers and len(found[row.speaker]) < count:
            found[row.speaker].append(row)
    return found


def heard(bundle: Bundle, rows: Sequence[Row]) -> list[Audio]:
    """Return the sound of rows."""
    console = Console(stderr=True)
    return [bundle.codec.decode([list(row.codes)])[0] for row in track(rows, "decoding", console=console)]


def variant(tones: np.ndarray, kind: float) -> tuple[np.ndarray, float]:
    """Return a melody, changed or not as a number in [0, 1) says, and how natural it is."""
    made, share = tones.copy(), random.random()
    if kind < 0.35:
        return made, 1.0
    if kind < 0.7:
        made[:, 0] *= 1 - share
        return made, 1 - share
    if kind < 0.85:
        made[:, 0] *= 2.2 + 2 * share
        return made, 0.0
    return mixed_up(made), 0.0


def mixed_up(tones: np.ndarray) -> np.ndarray:
    """Return a melody whose voiced stretches have the tones of other ones."""
    edges = np.flatnonzero(np.diff(np.pad(tones[:, 1], 1))).reshape(-1, 2)
    order = random.sample(range(len(edges)), len(edges))
    pool = np.concatenate([tones[slice(*edges[place])][:: random.choice((1, -1)), 0] for place in order])
    tones[tones[:, 1] > 0, 0] = pool
    return tones


def batch_of(melodies: dict[str, list[np.ndarray]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return melodies [B, F, 3], the mask of real frames [B, F] and how natural they are [B]."""
    rows, labels = [], []
    for _ in range(BATCH):
        own = random.choice(list(melodies.values()))
        tones, label = variant(random.choice(own), random.random())
        rows.append(relative(tones, own_range(random.choice(own))))
        labels.append(label)
    masks = [torch.ones(len(row), dtype=torch.bool) for row in rows]
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True), pad(masks, batch_first=True), torch.tensor(labels)


def train(melodies: dict[str, list[np.ndarray]], steps: int, seed: int) -> Network:
    """Return a trained network."""
    random.seed(seed)
    torch.manual_seed(seed)
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in track(range(steps), "training", console=Console(stderr=True)):
        tones, mask, labels = batch_of(melodies)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(tones, mask), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def auc(better: Sequence[float], worse: Sequence[float]) -> float:
    """Return how often one of the better is worth more than one of the worse; a tie is half."""
    rows, columns = np.array(better)[:, None], np.array(worse)
    return float(((rows > columns) + 0.5 * (rows == columns)).mean())


def flattened(bundle: Bundle, sounds: Sequence[Audio], severity: float) -> list[Audio]:
    """Return sounds with flatter melodies, as the codec hears them."""
    flat = [DEFECTS["monotone"](one, severity) for one in sounds]
    return [bundle.codec.decode(bundle.codec.encode([one]))[0] for one in flat]


def values(scorer: Scorer, said: Sequence[Utterance], sounds: Sequence[Audio]) -> list[float]:
    """Return what sounds are worth."""
    pairs = zip(said, sounds, strict=True)
    return [one.value for one in scorer.score([Candidate(what, [0], "stop", audio=a) for what, a in pairs])]


def test(bundle: Bundle, scorers: dict[str, Scorer], rows: Sequence[Row]) -> None:
    """Print how well scorers tell natural melodies from planted ones."""
    first, *rest = rows
    voice = Voice(first.speaker, first.text, list(first.codes), bundle.codec.name)
    said, sounds = [Utterance(row.id, row.text, voice) for row in rest], heard(bundle, rest)
    again = [bundle.codec.decode(bundle.codec.encode([one]))[0] for one in sounds]
    natural = {name: values(scorer, said, again) for name, scorer in scorers.items()}
    for severity in (0.25, 0.5, 0.75, 1.0):
        planted = flattened(bundle, sounds, severity)
        for name, scorer in scorers.items():
            worse = values(scorer, said, planted)
            right = np.mean(np.array(natural[name]) > np.array(worse))
            told = f"AUC {auc(natural[name], worse):.3f}, pairs in order {right:.1%}"
            print(f"{first.speaker} x {len(rest)}, flattened {severity:.0%}: {name} {told}")
    wild = [DEFECTS["monotone"](one, 0.02) for one in sounds]
    for name, scorer in scorers.items():
        print(f"{first.speaker}: {name} of speech made anew, hardly flatter: AUC "
              f"{auc(natural[name], values(scorer, said, wild)):.3f} (0.5 is right)")  # fmt: skip


def mixed(scorers_range: float, network: Network, melodies: Sequence[np.ndarray]) -> float:
    """Return the AUC of natural melodies against the same tones in another order."""

    def of(tones: np.ndarray) -> float:
        row = relative(tones, scorers_range)[None]
        return float(network(row, torch.ones(row.shape[:2], dtype=torch.bool)))

    return auc([of(one) for one in melodies], [of(mixed_up(one.copy())) for one in melodies])


def main() -> None:
    """Train, save, test, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--bundle", default="starter")
    parser.add_argument("--data", type=Path, default=Path("recipes/artifacts/codes"))
    parser.add_argument("--speakers", nargs="+", default=["awb", "rms", "kal16", HELD_OUT])
    parser.add_argument("--each", type=int, default=80)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    bundle = load(args.bundle).bundle
    rows = drawn(Shards(args.data), args.speakers, args.each)
    held_out = rows.pop(HELD_OUT)
    melodies = {name: [melody(one) for one in heard(bundle, own)] for name, own in rows.items()}
    network = train(melodies, args.steps, args.seed)
    with torch.inference_mode():
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, args.out)
        manner = Manner(bundle.codec, str(args.out))
        test(bundle, {"manner": manner, "prosody": Prosody(bundle.codec, bundle.reader)}, held_out)
        others = [melody(one) for one in heard(bundle, held_out[1:])]
        print(f"{HELD_OUT}, tones mixed up: manner AUC {mixed(own_range(others[0]), network, others):.3f}")


if __name__ == "__main__":
    main()
