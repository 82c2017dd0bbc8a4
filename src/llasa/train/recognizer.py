"""Trains the CTC recogniser on shards of speech with texts, and on their copies through a codec.

Half of the rows are copies: a judge of what a codec decodes must have heard what the codec does to speech.
Texts are held out by their hash, so no voice and no copy of a held-out text is trained on.

Shapes as in recognizers/ctc.py.
"""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import jiwer
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llasa.core import Audio, Ids
from llasa.recognizers.base import TextForm
from llasa.recognizers.ctc import BLANK, MARK, CtcModel, CtcRecognizer, batched, levelled, token_ids
from llasa.train.loop import average_gradients, rate_at

Reader = Callable[[str], str]


@dataclass(frozen=True)
class Spoken:
    """One utterance. samples: int16 [T]; ids: the tokens said."""

    samples: np.ndarray
    ids: Ids


def is_held_out(text: str, every: int = 40) -> bool:
    """Return whether a text is kept for validation: one in `every`, the same for all voices and copies."""
    return zlib.crc32(text.encode()) % every == 0


def read_rows(path: Path) -> list[dict]:
    """Return the rows with a text of a speech shard `NAME.jsonl`."""
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [row for row in rows if row["text"]]


class Corpus:
    """The utterances of speech shards, one group a shard. All randomness is torch's global generator."""

    def __init__(self, folder: Path, text_form: TextForm, reader: Reader) -> None:
        """Read every `NAME.jsonl` + `NAME.pcm` of a folder; reader: a row's text -> `text_form`."""
        self.groups: list[list[Spoken]] = []
        self.held: list[Spoken] = []
        known: dict[str, Ids] = {}
        for path in sorted(p for p in folder.glob("*.jsonl") if read_rows(p)):
            sound, group = np.memmap(path.with_suffix(".pcm"), np.int16, "r"), []
            for row in read_rows(path):
                if row["text"] not in known:
                    known[row["text"]] = token_ids(reader(row["text"]), text_form)
                spoken = Spoken(sound[row["offset"] : row["offset"] + row["samples"]], known[row["text"]])
                (self.held if is_held_out(row["text"]) else group).append(spoken)
            self.groups.append(group)
        # The square root lets shards with little speech be heard more often than their share.
        self.weights = torch.tensor([len(group) ** 0.5 for group in self.groups])

    def draw(self) -> Spoken:
        """Return one training utterance."""
        group = self.groups[int(torch.multinomial(self.weights, 1))]
        return group[int(torch.randint(len(group), ()))]


def disturbed(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return int16 samples as levelled float32 with a random gain, silence around and noise under them."""
    low, high, noise = torch.rand(3).tolist()
    before, after = (int(share * 0.25 * sample_rate) for share in (low, high))
    gain = 10 ** float(torch.empty(()).uniform_(-0.3, 0.3))
    sound = np.pad(gain * levelled(samples.astype(np.float32) / 32768), (before, after))
    return sound + torch.randn(len(sound)).numpy() * np.float32(10 ** (1.7 * noise - 4))


def masked(mel: Tensor, bands: int = 12, frames: int = 8, share: float = 0.03) -> Tensor:
    """Return log-mel [B, M, F] with two runs of bands and about `share` of the time silenced.

    Source: D. Park et al., SpecAugment, arXiv 1904.08779.
    """
    n, m, f = mel.shape
    keep = torch.ones(n, m, 1)
    for _ in range(2):
        first, size = torch.randint(m, (n, 1, 1)), torch.randint(bands + 1, (n, 1, 1))
        place = torch.arange(m)[None, :, None]
        keep = keep * ~((place >= first) & (place < first + size))
    starts = (torch.rand(n, 1, f) < share / frames).float()
    runs = F.max_pool1d(F.pad(starts, (frames - 1, 0)), frames, 1)
    return mel * keep * (1 - runs)


class CtcTask:
    """Trains `model` on corpora drawn from in equal parts; see `loop.Task`."""

    def __init__(
        self, model: CtcModel, corpora: Mapping[str, Corpus], steps: int, *, batch_s: float = 48.0,
        learning_rate: float = 2.5e-3, held_rows: int = 120,
    ) -> None:  # fmt: skip
        self.model, self.corpora, self.steps = model, dict(corpora), steps
        self.batch_s, self.learning_rate, self.held_rows = batch_s, learning_rate, held_rows
        self.modules: dict[str, nn.Module] = {"recognizer": model}
        weights, betas = model.parameters(), (0.9, 0.98)
        adamw = torch.optim.AdamW(weights, learning_rate, betas, weight_decay=0.02, fused=True)
        self.optimizers: dict[str, torch.optim.Optimizer] = {"adamw": adamw}

    def step(self, index: int) -> Mapping[str, float]:
        """See `Task`."""
        self.model.train()
        optimizer = self.optimizers["adamw"]
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate * rate_at(index, self.steps)
        loss = self._loss(self._batch())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.model.parameters())
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        optimizer.step()
        return {"loss": loss.item()}

    def _batch(self) -> list[Spoken]:
        """Return utterances of similar length, about `batch_s` seconds."""
        choices = list(self.corpora.values())
        pool = [choices[int(torch.randint(len(choices), ()))].draw() for _ in range(64)]
        pool.sort(key=lambda spoken: len(spoken.samples))
        start, room = int(torch.randint(len(pool) - 8, ())), self.batch_s * self.model.config.sample_rate
        count = max(1, int(room / len(pool[min(start + 8, len(pool) - 1)].samples)))
        return pool[max(0, min(start, len(pool) - count)) :][:count]

    def _loss(self, rows: Sequence[Spoken]) -> Tensor:
        """Return the CTC loss, nats a token."""
        config = self.model.config
        with torch.no_grad():
            samples, counts = batched([disturbed(row.samples, config.sample_rate) for row in rows], config)
            mel = masked(self.model.log_mel(samples))
        with torch.autocast("cpu", torch.bfloat16):
            scores = self.model(mel, counts)
        frames, sizes = torch.tensor(counts), torch.tensor([len(row.ids) for row in rows])
        targets = torch.tensor([token for row in rows for token in row.ids])
        lost = F.ctc_loss(scores.transpose(0, 1), targets, frames, sizes, BLANK, "sum", zero_infinity=True)
        return lost / sizes.sum()

    def validate(self) -> Mapping[str, float]:
        """Return token and word error rates on held-out texts, for each corpus."""
        recognizer, measures = CtcRecognizer(self.model), {}
        for name, corpus in ((name, corpus) for name, corpus in self.corpora.items() if corpus.held):
            # Evenly spaced, so that all voices are among them.
            rows = corpus.held[:: max(1, len(corpus.held) // self.held_rows)]
            said, heard = [row.ids for row in rows], self._heard(recognizer, rows)
            measures[f"held_{name}_tokens"] = jiwer.wer([*map(_tokens, said)], [*map(_tokens, heard)])
            measures[f"held_{name}_words"] = jiwer.wer([*map(_words, said)], [*map(_words, heard)])
        return measures

    def _heard(self, recognizer: CtcRecognizer, rows: Sequence[Spoken], size: int = 12) -> list[Ids]:
        clips = [Audio(row.samples.astype(np.float32) / 32768, recognizer.config.sample_rate) for row in rows]
        parts = (recognizer.transcribe(clips[i : i + size]) for i in range(0, len(clips), size))
        texts = (transcript.text for part in parts for transcript in part)
        return [token_ids(text, recognizer.text_form) if text else [] for text in texts]


def _tokens(ids: Ids) -> str:
    return " ".join(map(str, ids))


def _words(ids: Ids) -> str:
    words = (group for is_mark, group in groupby(ids, MARK.__eq__) if not is_mark)
    return " ".join("-".join(map(str, word)) for word in words)
