"""Supervised training of the language model on shards of codes, with a curriculum of word-boundary crops.

Rows are built by `prompt.py`, the very ones inference uses. Whole sentences teach a plain decoder its
alignment slowly; crops of one or two words that grow into sentences teach it quickly. Most rows are two
utterances of one speaker, the first standing where a voice stands when cloning; the loss covers the codes of
both and the end marker.

Shapes: B rows, S ids a row.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llasa.core import Codes, Ids
from llasa.data.shards import Row, Shard
from llasa.prompt import IGNORED, Prompt
from llasa.train.loop import average_gradients, processes, rate_at

Reader = Callable[[str], str]


@dataclass(frozen=True)
class Curriculum:
    """How rows change over a run; progress goes from 0 to 1.

    grow: share of the run in which crops grow to whole sentences. words: longest crop at its end.
    prompted: share of rows with a voice afterwards (half of it before). prompt_codes: longest voice.
    corrupt: each row has up to this share of its input codes replaced at random, which makes the model robust
    to its own mistakes. cropped: share of rows that stay crops after growth.
    """

    grow: float = 0.12
    words: int = 20
    prompted: float = 0.9
    prompt_codes: int = 110
    corrupt: float = 0.2
    cropped: float = 0.15

    def longest(self, progress: float) -> int | None:
        """Return the longest crop in words now, or None for whole sentences."""
        ratio = progress / self.grow if self.grow else 1.0
        return None if ratio >= 1 else 2 + int(self.words * ratio * ratio)


class Rows:
    """Draws training rows from shards. All randomness is torch's global generator."""

    def __init__(
        self, shards: Sequence[Shard], prompt: Prompt, reader: Reader, curriculum: Curriculum,
        emphasis: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        """Take the shards; `emphasis` multiplies how often a speaker is drawn (1 where not named)."""
        self.prompt, self.reader, self.curriculum = prompt, reader, curriculum
        self.by_speaker: dict[str, list[Row]] = {}
        for shard in shards:
            self.by_speaker.setdefault(shard.speaker, []).extend(
                r for r in shard.rows if len(r.word_ends) > 1
            )
        self.speakers = list(self.by_speaker)
        # The square root lets speakers with little speech be heard more often than their share.
        stress = emphasis or {}
        self.weights = torch.tensor(
            [len(rows) ** 0.5 * stress.get(s, 1.0) for s, rows in self.by_speaker.items()]
        )

    def draw(self, progress: float) -> tuple[Ids, Ids]:
        """Return one row (ids, labels) for this point of the run."""
        speaker = self.speakers[int(torch.multinomial(self.weights, 1))]
        longest = self.curriculum.longest(progress)
        cropped = longest is not None or float(torch.rand(())) < self.curriculum.cropped
        text, codes = self.piece(self._pick(speaker), (longest or self.curriculum.words) if cropped else None)
        share = self.curriculum.prompted * (0.5 if longest else 1.0)
        if float(torch.rand(())) < share:
            voice_text, voice_codes = self.piece(
                self._pick(speaker), longest or 12, self.curriculum.prompt_codes
            )
            text, codes = f"{voice_text}{self.prompt.separator}{text}", [*voice_codes, *codes]
        return self.prompt.example(text, codes)

    def piece(self, row: Row, words: int | None, codes: int | None = None) -> tuple[str, Codes]:
        """Return the text (as the model reads it) and codes of a row,
        or of a random run of at most `words` words.

        The run is shortened to at most `codes` codes, but never below one word.
        """
        said, ends = row.text.split(), list(row.word_ends)
        first, last = 0, len(said)
        if words is not None and words < len(said):
            count = 1 + int(torch.randint(words, ()))
            first = int(torch.randint(len(said) - count + 1, ()))
            last = first + count
        # A word shorter than one code shares its neighbour's.
        start = min(ends[first - 1], len(row.codes) - 1) if first else 0
        while codes is not None and last - first > 1 and ends[last - 1] - start > codes:
            last -= 1
        # The final silence belongs to the last word.
        end = max(start + 1, len(row.codes) if last == len(said) else ends[last - 1])
        text = " ".join(said[first:last])
        if last == len(said) and text[-1] not in ",.?!" and float(torch.rand(())) < 0.6:
            text += "."
        return self.reader(text.rstrip(",") if last < len(said) else text), list(row.codes[start:end])

    def _pick(self, speaker: str) -> Row:
        rows = self.by_speaker[speaker]
        return rows[int(torch.randint(len(rows), ()))]


def collate(rows: Sequence[tuple[Ids, Ids]], pad: int) -> tuple[Tensor, Tensor]:
    """Return ids and labels [B, S], padded on the right, where a causal model never looks."""
    ids = [torch.tensor(row) for row, _ in rows]
    labels = [torch.tensor(row) for _, row in rows]
    pad_rows = nn.utils.rnn.pad_sequence
    return pad_rows(ids, True, pad), pad_rows(labels, True, IGNORED)


def code_loss(model: Any, ids: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each labelled id, nats [labels]; the head runs on those positions only.

    model: a causal LM as in transformers, with `model` and `lm_head`.
    """
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    wanted = labels[:, 1:] != IGNORED
    logits = model.lm_head(hidden[wanted])
    return F.cross_entropy(logits.float(), labels[:, 1:][wanted], reduction="none")


def embed_by_digits(weight: Tensor, first: int, levels: Sequence[int]) -> None:
    """Start code embeddings as sums of one random vector per FSQ digit,
    so neighbours on the grid start alike.

    Args:
        weight: [V, D], changed in place. first: id of code 0.
            levels: of the codec, dimension 0 least significant.
    """
    codes = torch.arange(int(torch.tensor(levels).prod()))
    total = torch.zeros(len(codes), weight.shape[1])
    std = float(weight.detach().std())
    for size in levels:
        digit, codes = codes % size, codes // size
        # A random walk over the digit's values keeps close values close.
        steps = torch.randn(size, weight.shape[1]).cumsum(0)
        total = total + (steps - steps.mean(0))[digit]
    with torch.no_grad():
        weight[first : first + len(total)] = total / total.std() * std


def optimizers_for(model: nn.Module, learning_rate: float, muon: bool) -> dict[str, torch.optim.Optimizer]:
    """Return AdamW over everything, or Muon over the layers' matrices and AdamW over the rest."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers." in n] if muon else []
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    adamw = torch.optim.AdamW(rest, learning_rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    if not muon:
        return {"adamw": adamw}
    # This scale gives Muon's updates AdamW's size, so both share one learning rate.
    return {
        "adamw": adamw,
        "muon": torch.optim.Muon(matrices, learning_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
    }


class SftTask:
    """Trains `model` on rows; see `loop.Task`."""

    def __init__(
        self, model: nn.Module, train: Rows, held: Rows, steps: int, *, tokens: int = 2800,
        learning_rate: float = 1.8e-3, muon: bool = True, hold: float = 0.3,
    ) -> None:  # fmt: skip
        self.model, self.train, self.held, self.steps = model, train, held, steps
        self.tokens, self.learning_rate, self.hold = tokens, learning_rate, hold
        self.modules = {"model": model}
        self.optimizers = optimizers_for(model, learning_rate, muon)
        self.seen = 0

    def step(self, index: int) -> Mapping[str, float]:
        """See `Task`."""
        self.model.train()
        ids, labels = self._batch(index / self.steps)
        with torch.autocast("cpu", torch.bfloat16):
            loss = code_loss(self.model, self._corrupt(ids), labels).mean()
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * rate_at(index, self.steps, hold=self.hold)
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.model.parameters())
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers.values():
            optimizer.step()
        return {"loss": loss.item(), "tokens": float(ids.numel() * processes())}

    def _batch(self, progress: float) -> tuple[Tensor, Tensor]:
        """Return rows of similar length that fill about `tokens` ids."""
        pool = [self.train.draw(progress) for _ in range(8)]
        mean = sum(len(ids) for ids, _ in pool) / len(pool)
        count = max(2, int(self.tokens / mean))
        pool = sorted(
            (*pool, *(self.train.draw(progress) for _ in range(3 * count - 8))), key=lambda row: len(row[0])
        )
        start = int(torch.randint(len(pool), ()))
        taken = pool[max(0, min(start, len(pool) - count)) :]
        longest, kept = 0, []
        for row in taken:
            longest = max(longest, len(row[0]))
            if kept and longest * (len(kept) + 1) > self.tokens * 1.1:
                break
            kept.append(row)
        return collate(kept, self.train.prompt.end_id)

    def _corrupt(self, ids: Tensor) -> Tensor:
        first, size = self.train.prompt.first_code_id, self.train.prompt.codebook_size
        share = torch.rand(len(ids), 1) * self.train.curriculum.corrupt
        spoilt = (torch.rand(ids.shape) < share) & (ids >= first) & (ids < first + size)
        return torch.where(spoilt, torch.randint_like(ids, first, first + size), ids)

    @torch.no_grad()
    def validate(self) -> Mapping[str, float]:
        """Return the code loss on whole unseen sentences after the right voice and after another
        speaker's.
        """
        self.model.eval()
        torch.manual_seed(1)
        return {
            "held_loss": self._prompted_loss(other=False),
            "held_other_voice": self._prompted_loss(other=True),
        }

    def _prompted_loss(self, other: bool, rows: int = 60) -> float:
        held, built = self.held, []
        for i in range(rows):
            speaker = held.speakers[i % len(held.speakers)]
            voice = held.speakers[(i + 1) % len(held.speakers)] if other else speaker
            candidates = held.by_speaker[speaker]
            row = candidates[(i // len(held.speakers)) % len(candidates)]
            reference = held.by_speaker[voice][(i // len(held.speakers) + 1) % len(held.by_speaker[voice])]
            voice_text, voice_codes = held.piece(reference, None, held.curriculum.prompt_codes)
            built.append(held.prompt.example(held.reader(row.text), list(row.codes), voice_text, voice_codes))
        with torch.autocast("cpu", torch.bfloat16):
            parts = [
                code_loss(self.model, *collate(built[i : i + 10], held.prompt.end_id))
                for i in range(0, rows, 10)
            ]
        return float(torch.cat(parts).mean())
