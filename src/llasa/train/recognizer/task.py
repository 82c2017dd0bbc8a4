"""A step of the recogniser's training: disturbed sound, masked spectra, the CTC loss; and held-out errors.

Shapes as in recognizers/ctc.py.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

import jiwer
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llasa.core import Audio, Ids
from llasa.errors import InputError
from llasa.recognizers.ctc import BLANK, MARK, CtcModel, CtcRecognizer, batched, levelled, token_ids
from llasa.train.loop import average_gradients, rate_at
from llasa.train.recognizer.corpus import Corpus, Line, Spoken

POOL = 64  # lines drawn at once, of which neighbours in length become a batch
_TRIES = 20


def disturbed(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return samples [T], levelled, with a random gain, silence around and noise under them; float32."""
    low, high, noise = torch.rand(3).tolist()
    before, after = (int(share * 0.25 * sample_rate) for share in (low, high))
    gain = 10 ** float(torch.empty(()).uniform_(-0.3, 0.3))
    sound = np.pad(np.float32(gain) * levelled(samples), (before, after))
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
    return mel * (keep * (1 - runs)).to(mel.device)


class CtcTask:
    """Trains `model` on corpora drawn from in equal parts; see `loop.Task`."""

    def __init__(
        self, model: CtcModel, corpora: Mapping[str, Corpus], steps: int, *, batch_s: float = 48.0,
        learning_rate: float = 2.5e-3, held_rows: int = 120,
    ) -> None:  # fmt: skip
        self.model, self.corpora, self.steps = model, dict(corpora), steps
        self.batch_s, self.learning_rate, self.held_rows = batch_s, learning_rate, held_rows
        self.device = model.out.weight.device
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
        rows = self._batch()
        loss = self._loss(rows)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.model.parameters())
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        optimizer.step()
        return {"loss": loss.item(), "sound_s": self._seconds(rows)}

    def _batch(self) -> list[Spoken]:
        """Return utterances of similar length, about `batch_s` seconds; clips of no use are left out."""
        choices = list(self.corpora.values())
        for _ in range(_TRIES):
            corpora = [choices[int(torch.randint(len(choices), ()))] for _ in range(POOL)]
            pool = [(corpus, corpus.draw()) for corpus in corpora]
            spoken = [corpus.spoken(line) for corpus, line in self._alike(pool)]
            if rows := [row for row in spoken if row]:
                return rows
        bad = [reject for corpus in choices for reject in corpus.bad.values()]
        raise InputError(f"Drawing speech: {_TRIES} batches in a row hold no clip of use. {bad[0].detail}")

    def _alike(self, pool: list[tuple[Corpus, Line]]) -> list[tuple[Corpus, Line]]:
        pool = sorted(pool, key=lambda pair: pair[1].length_s)
        start = int(torch.randint(len(pool) - 8, ()))
        count = max(1, int(self.batch_s / pool[min(start + 8, len(pool) - 1)][1].length_s))
        return pool[max(0, min(start, len(pool) - count)) :][:count]

    def _seconds(self, rows: Sequence[Spoken]) -> float:
        return sum(len(row.samples) for row in rows) / self.model.config.sample_rate

    def _loss(self, rows: Sequence[Spoken]) -> Tensor:
        """Return the CTC loss, nats a token."""
        config = self.model.config
        with torch.no_grad():
            samples, counts = batched([disturbed(row.samples, config.sample_rate) for row in rows], config)
            mel = masked(self.model.log_mel(samples.to(self.device)))
        with torch.autocast(self.device.type, torch.bfloat16):
            scores = self.model(mel, counts)
        frames, sizes = torch.tensor(counts), torch.tensor([len(row.ids) for row in rows])
        targets = torch.tensor([token for row in rows for token in row.ids])
        # On the CPU, where it is deterministic.
        found = scores.transpose(0, 1).cpu()
        lost = F.ctc_loss(found, targets, frames, sizes, BLANK, "sum", zero_infinity=True)
        return lost / sizes.sum()

    def validate(self) -> Mapping[str, float]:
        """Return token and word error rates on held-out texts, for each corpus that has some.

        Raises:
            InputError: none of them is of use.
        """
        recognizer, measures = CtcRecognizer(self.model), dict[str, float]()
        for name, corpus in self.corpora.items():
            # Evenly spaced, so that all voices are among them.
            lines = corpus.held[:: max(1, len(corpus.held) // self.held_rows)]
            rows = [row for line in lines if (row := corpus.spoken(line))]
            if rows:
                said, heard = [row.ids for row in rows], self._heard(recognizer, rows)
                measures[f"held_{name}_tokens"] = jiwer.wer([*map(_tokens, said)], [*map(_tokens, heard)])
                measures[f"held_{name}_words"] = jiwer.wer([*map(_words, said)], [*map(_words, heard)])
        if not measures:
            raise InputError(
                "Measuring a recogniser: no held-out clip is of use. Check them, or hold out more."
            )
        return measures

    def _heard(self, recognizer: CtcRecognizer, rows: Sequence[Spoken], size: int = 12) -> list[Ids]:
        form, tokens = recognizer.text_form, recognizer.config.tokens
        clips = [Audio(row.samples, recognizer.config.sample_rate) for row in rows]
        parts = (recognizer.transcribe(clips[i : i + size]) for i in range(0, len(clips), size))
        texts = (transcript.text for part in parts for transcript in part)
        return [token_ids(text, form, tokens) if text else [] for text in texts]


def _tokens(ids: Ids) -> str:
    return " ".join(map(str, ids))


def _words(ids: Ids) -> str:
    words = (group for is_mark, group in groupby(ids, MARK.__eq__) if not is_mark)
    return " ".join("-".join(map(str, word)) for word in words)
