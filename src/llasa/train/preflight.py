"""Before hours are spent: what the model is really shown, read back as text and sound, and its first loss.

Must not know: trainers.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from llasa import audio
from llasa.bundle import Bundle
from llasa.core import Codes, Ids
from llasa.errors import ConfigError
from llasa.prompt import IGNORED, SPEECH_START, TEXT_END, TEXT_START, Prompt
from llasa.train.loss import label_loss
from llasa.train.rows import Batches

SHOWN = 4  # rows written as text and sound
COMPARED = 64  # ids over which the loss is compared with the library's
LEAST = 0.6  # nats; below this a first loss means that labels are wrong (zhenye234/LLaSA_training#47)
WORST = 1.5  # times the loss of guessing


@dataclass(frozen=True)
class Report:
    """What was found. guess: ln of the vocabulary. waste: share of padding. problems: why not to start."""

    rows: int
    tokens: int
    waste: float
    rows_per_s: float
    loss: float
    guess: float
    problems: tuple[str, ...]
    shown: tuple[str, ...] = field(default=(), repr=False)

    def facts(self) -> dict[str, object]:
        """Return it for a program."""
        return {key: value for key, value in asdict(self).items() if key != "shown"}

    def lines(self) -> list[str]:
        """Return it for a person."""
        return [
            f"First batch: {self.rows} rows, {self.tokens} ids, {self.waste:.1%} of it padding; "
            f"{self.rows_per_s:.0f} rows/s are made.",
            f"First loss: {self.loss:.3f} nats a code; guessing among the vocabulary is {self.guess:.3f}.",
            *(f"Problem: {problem}" for problem in self.problems),
        ]


def preflight(model: Any, batches: Batches, bundle: Bundle, folder: Path) -> Report:
    """Look at the first batch and write what is in it: `preflight.txt`, and a sound a row.

    Args:
        model: of transformers, with its own loss still. folder: of the files; made if missing.
    """
    began = time.monotonic()
    window, batch = batches.window(0, 0), batches[0]
    rate = sum(map(len, window)) / max(1e-9, time.monotonic() - began)
    first = batches.examples(0)
    tokenizer = Tokenizer.from_file(str(bundle.folder / bundle.manifest.lm.path / "tokenizer.json"))
    markers: list[Any] = [tokenizer.token_to_id(name) for name in (TEXT_START, TEXT_END, SPEECH_START)]
    problems = [problem for row in first for problem in _row_problems(*row, bundle.prompt, markers)]
    loss, own = _losses(model, batch)
    guess = math.log(model.config.get_text_config().vocab_size)
    problems += _loss_problems(loss, own, guess)
    shown = _show(first[:SHOWN], bundle, tokenizer, folder)
    tokens = batches.tokens(0)
    waste = 1 - tokens / batch["input_ids"].numel()
    found = tuple(dict.fromkeys(problems))
    report = Report(len(first), tokens, waste, rate, loss, guess, found, tuple(shown))
    (folder / "preflight.txt").write_text("\n".join([*report.lines(), "", *shown]) + "\n", encoding="utf-8")
    return report


def check(report: Report, folder: Path) -> None:
    """Refuse to start a run with problems.

    Raises:
        ConfigError: names the first one.
    """
    if report.problems:
        raise ConfigError(
            f"Looking at the first batch: {report.problems[0]} See '{folder}' for what the model is shown; "
            "check_first_batch = false starts anyway."
        )


def _row_problems(ids: Ids, labels: Ids, prompt: Prompt, markers: Sequence[int]) -> list[str]:
    problems: list[str] = []
    codes = range(prompt.first_code_id, prompt.first_code_id + prompt.codebook_size)
    told = [label for label in labels if label != IGNORED]
    if not any(token in codes for token in ids):
        return []  # chat
    if [token for token in ids if token in markers] != list(markers):
        problems.append("a row's markers are out of order, or not all there.")
    if ids[-1] != prompt.end_id or labels[-1] != prompt.end_id:
        problems.append("a row does not end with the end marker.")
    if any(token not in codes for token in told[:-1]):
        problems.append("labels stand on other ids than codes.")
    if any(label not in (IGNORED, token) for token, label in zip(ids, labels, strict=True)):
        problems.append("labels differ from their ids.")
    return problems


@torch.no_grad()
def _losses(model: Any, batch: Mapping[str, Tensor]) -> tuple[float, tuple[float, float]]:
    """Return the loss of a batch, and ours and the library's of a few ids that have labels."""
    model.eval()
    device = next(model.parameters()).device
    ids, labels = batch["input_ids"].to(device), batch["labels"].to(device)
    head = model.get_output_embeddings()

    def ours(ids: Tensor, labels: Tensor) -> float:
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return float(label_loss(hidden, labels, head))

    short = slice(0, int((labels[0] != IGNORED).nonzero()[0]) + COMPARED)
    one = ids[:1, short], labels[:1, short]
    theirs = float(model(input_ids=one[0], labels=one[1], use_cache=False).loss)
    return ours(ids, labels), (ours(*one), theirs)


def _loss_problems(loss: float, own: tuple[float, float], guess: float) -> list[str]:
    problems = []
    if not math.isfinite(loss):
        problems.append(f"the first loss is {loss}: the weights or the data hold what is no number.")
    elif loss < LEAST:
        problems.append(
            f"the first loss is {loss:.2f} nats, too good to be true: labels are shifted, or are what the "
            "model is shown already, or it was trained on these very rows."
        )
    elif loss > WORST * guess:
        problems.append(
            f"the first loss is {loss:.2f} nats, and guessing would be {guess:.2f}: the codes are another "
            "codec's, their ids are off, or the model is damaged."
        )
    if not math.isclose(*own, rel_tol=2e-2):
        problems.append(f"the loss is {own[0]:.4f}, where transformers' own is {own[1]:.4f}.")
    return problems


def _show(rows: Sequence[tuple[Ids, Ids]], bundle: Bundle, tokenizer: Tokenizer, folder: Path) -> list[str]:
    """Write the sounds of rows and return what they say."""
    folder.mkdir(parents=True, exist_ok=True)
    spoken = [_codes(ids, bundle.prompt) for ids, _ in rows]
    sounds = iter(bundle.codec.decode([codes for codes in spoken if codes]))
    shown: list[str] = []
    for number, ((ids, labels), codes) in enumerate(zip(rows, spoken, strict=True)):
        told, coded = sum(label != IGNORED for label in labels), set(bundle.prompt.ids(codes))
        text = tokenizer.decode([token for token in ids if token not in coded], skip_special_tokens=False)
        counts = f"{len(ids)} ids, {len(codes)} codes, {told} ids learnt"
        shown.append(f"{number}.wav: {counts}\n  {text}")
        if codes:
            audio.write(folder / f"{number}.wav", next(sounds))
    return shown


def _codes(ids: Ids, prompt: Prompt) -> Codes:
    codes = (token - prompt.first_code_id for token in ids)
    return [code for code in codes if 0 <= code < prompt.codebook_size]
