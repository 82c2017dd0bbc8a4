"""Builds what `text.phones` reads: the lexicon and the letter-to-sound model.

Letters and phones are aligned by hard expectation-maximisation, each letter giving no, one or two phones; a
small network then learns each letter's phones from its neighbours and the outputs before it.
Must not know: bundles, language models.
Shapes: B words of one size, n letters, m phones.
"""

import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from llasa.audio import replace_file
from llasa.errors import InputError, MissingExtra
from llasa.text.phones import LETTERS, PHONES, LetterModel, windows_of

Chunks = list[str]
REACH = 5  # letters seen on each side
HISTORY = 3  # earlier outputs seen


@dataclass(frozen=True)
class LettersReport:
    """How the model does on words it has not seen.

    word_accuracy: words right in every phone, in [0, 1]. phone_error_rate: edits per phone.
    """

    words: int
    word_accuracy: float
    phone_error_rate: float


def read_dictionary(path: str | Path | None = None) -> dict[str, str]:
    """Return the first pronunciation of each plain word of a dictionary: word -> phones, without stress.

    path: lines of a word and its phones, as CMUdict has them; the one inside pocketsphinx if None.

    Raises:
        InputError: it cannot be read, holds no word, or a phone that is not in `PHONES`.
        MissingExtra: pocketsphinx is wanted and not installed.
    """
    source = Path(path) if path else _cmudict()
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"Reading the lexicon '{source}': {error}. Check the file.") from error
    lexicon: dict[str, str] = {}
    for line in lines:
        word, *phones = re.sub(r"\s#.*", "", line).split() or [""]
        if re.fullmatch(r"'?[a-z][a-z']*", word.lower()) and phones:
            lexicon.setdefault(word.lower(), " ".join(phone.rstrip("012") for phone in phones))
    _check_lexicon(lexicon, source)
    return lexicon


def _cmudict() -> Path:
    try:
        from pocketsphinx import get_model_path
    except ImportError as error:
        raise MissingExtra("Reading CMUdict", "pocketsphinx", "eval") from error
    return Path(get_model_path()) / "en-us" / "cmudict-en-us.dict"


def _check_lexicon(lexicon: Mapping[str, str], source: Path) -> None:
    unknown = {phone for phones in lexicon.values() for phone in phones.split()} - set(PHONES)
    if unknown or not lexicon:
        found = (
            f"phones that are none of ARPAbet's: {', '.join(sorted(unknown)[:5])}" if unknown else "no word"
        )
        todo = "Write a word and its phones a line, as in: hello HH AH L OW"
        raise InputError(f"Reading the lexicon '{source}': found {found}. {todo}.")


def write_lexicon(lexicon: Mapping[str, str], path: str | Path) -> None:
    """Write `lexicon.txt.gz` as `text.phones` reads it; the same words give the same file."""
    text = "".join(f"{word}\t{phones}\n" for word, phones in sorted(lexicon.items()))
    replace_file(Path(path), gzip.compress(text.encode("ascii"), 9, mtime=0))


def train_letters(
    lexicon: Mapping[str, str],
    out_path: str | Path,
    seed: int = 0,
    *,
    epochs: int = 12,
    held_out: float = 0.05,
) -> LettersReport:
    """Train the letter-to-sound model, write it as safetensors, and measure it on words kept apart.

    Args:
        lexicon: word -> phones. Possessives are left out: they follow a rule.
        seed: decides the split, the first weights and the order; the same seed gives the same file.
        epochs: passes over the words; about 12 s each on one core for 110,000 words.
        held_out: share of the words to measure on, in (0, 1).

    Raises:
        InputError: too few words to learn from.
    """
    words = sorted(word for word in lexicon if not word.endswith("'s"))
    order = np.random.default_rng(seed).permutation(len(words))
    cut = max(1, round(held_out * len(words)))
    aligned = align({words[i]: lexicon[words[i]] for i in order[cut:]})
    examples = _examples(aligned)
    _save(_train(examples, seed, epochs), examples.outputs, out_path)
    return measure(LetterModel.load(Path(out_path)), {words[i]: lexicon[words[i]] for i in order[:cut]})


def measure(model: LetterModel, lexicon: Mapping[str, str]) -> LettersReport:
    """Return word accuracy and phone error rate of the model on the words of a lexicon."""
    errors = [_edits(model(word).split(), phones.split()) for word, phones in lexicon.items()]
    phones = sum(len(phones.split()) for phones in lexicon.values())
    return LettersReport(len(errors), errors.count(0) / len(errors), sum(errors) / phones)


def align(lexicon: Mapping[str, str], rounds: int = 5) -> dict[str, Chunks]:
    """Return word -> the phones each letter gives, e.g. "box" -> ["B", "AA", "K S"].

    Words with more than two phones a letter are left out.
    Source: A. Black, K. Lenzo and V. Pagel, *Issues in building general letter to sound rules* (1998).
    """
    groups = _by_size(lexicon)
    tables = _tables([(letters, phones, _even_counts(letters, phones)) for _, letters, phones in groups])
    for _ in range(rounds):
        counts = [_best_counts(letters, phones, tables) for _, letters, phones in groups]
        tables = _tables([(*group[1:], count) for group, count in zip(groups, counts, strict=True)])
    rows = (
        (w, c)
        for (words, _, _), count in zip(groups, counts, strict=True)
        for w, c in zip(words, count, strict=True)
    )
    return {word: _cut(lexicon[word].split(), count) for word, count in rows}


def _by_size(lexicon: Mapping[str, str]) -> list[tuple[list[str], np.ndarray, np.ndarray]]:
    sizes: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for word, phones in sorted(lexicon.items()):
        sizes[len(word), len(phones.split())].append(word)
    return [
        (
            words,
            np.array([[LETTERS.index(c) for c in word] for word in words]),
            np.array([[PHONES.index(p) for p in lexicon[word].split()] for word in words]),
        )
        for (n, m), words in sizes.items()
        if m <= 2 * n
    ]


def _even_counts(letters: np.ndarray, phones: np.ndarray) -> np.ndarray:
    """Phones spread evenly over the letters: where the alignment starts from."""
    ends = np.arange(1, letters.shape[1] + 1) * phones.shape[1] // letters.shape[1]
    return np.broadcast_to(np.diff(ends, prepend=0), letters.shape)


def _tables(groups: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """Log probabilities of no phone [L], one phone [L, P] and two phones [L, P * P], given the letter."""
    size = len(PHONES)
    counts = [
        np.full(len(LETTERS), 0.1),
        np.full((len(LETTERS), size), 1e-2),
        np.full((len(LETTERS), size**2), 1e-6),
    ]
    for letters, phones, given in groups:
        starts = np.cumsum(given, 1) - given
        padded = np.pad(phones, ((0, 0), (0, 2)))
        first, second = (np.take_along_axis(padded, starts + k, 1) for k in (0, 1))
        np.add.at(counts[0], letters[given == 0], 1)
        np.add.at(counts[1], (letters[given == 1], first[given == 1]), 1)
        np.add.at(counts[2], (letters[given == 2], (first * size + second)[given == 2]), 1)
    total = counts[0] + counts[1].sum(1) + counts[2].sum(1)
    return [np.log(counts[0] / total), np.log(counts[1] / total[:, None]), np.log(counts[2] / total[:, None])]


def _best_counts(letters: np.ndarray, phones: np.ndarray, tables: list[np.ndarray]) -> np.ndarray:
    """The likeliest number of phones of each letter, int [B, n] (Viterbi)."""
    (batch, n), m = letters.shape, phones.shape[1]
    pairs = phones[:, :-1] * len(PHONES) + phones[:, 1:]
    best = np.where(np.arange(m + 1) == 0, 0.0, -np.inf)[None].repeat(batch, 0)
    moves = []
    for letter in letters.T[:, :, None]:
        options = np.full((3, batch, m + 1), -np.inf)
        options[0] = best + tables[0][letter]
        options[1, :, 1:] = best[:, :-1] + tables[1][letter, phones]
        options[2, :, 2:] = best[:, : m - 1] + tables[2][letter, pairs]
        moves.append(options.argmax(0))
        best = options.max(0)
    counts, at = np.zeros((batch, n), int), np.full(batch, m)
    for i in reversed(range(n)):
        counts[:, i] = moves[i][np.arange(batch), at]
        at -= counts[:, i]
    return counts


def _cut(phones: list[str], counts: np.ndarray) -> Chunks:
    ends = np.cumsum(counts)
    return [" ".join(phones[end - count : end]) for end, count in zip(ends, counts, strict=True)]


@dataclass(frozen=True)
class _Examples:
    """One row a letter: rows int64 [N, features] that the network looks up, targets int64 [N]."""

    rows: torch.Tensor
    targets: torch.Tensor
    outputs: list[str]


def _examples(aligned: Mapping[str, Chunks], rarest: int = 25) -> _Examples:
    seen = Counter(chunk for chunks in aligned.values() for chunk in chunks)
    outputs = sorted(chunk for chunk, count in seen.items() if count >= rarest)
    ids = {chunk: i for i, chunk in enumerate(outputs)}
    base = (2 * REACH + 1) * (len(LETTERS) + 1)
    slots = base + np.arange(HISTORY) * (len(outputs) + 1)
    rows, targets = [], []
    for word, chunks in aligned.items():
        if all(chunk in ids for chunk in chunks):
            classes = [ids[chunk] for chunk in reversed(chunks)]
            past = np.lib.stride_tricks.sliding_window_view([len(outputs)] * HISTORY + classes, HISTORY)
            rows.append(np.hstack([windows_of(word, REACH)[::-1], past[:-1, ::-1] + slots]))
            targets += classes
    if not rows:
        found = f"of {len(aligned)} words none has only sounds that {rarest} letters or more have"
        raise InputError(f"Learning letters: {found}. Give a lexicon of thousands of words.")
    return _Examples(torch.from_numpy(np.vstack(rows)), torch.tensor(targets), outputs)


class _Network(nn.Module):
    def __init__(self, n_rows: int, n_outputs: int, width: int = 512, second: int = 192) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(n_rows, width, mode="sum")
        nn.init.normal_(self.embed.weight, std=0.1)
        self.embed_bias = nn.Parameter(torch.zeros(width))
        self.hidden = nn.Linear(width, second)
        self.out = nn.Linear(second, n_outputs)

    def forward(self, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        first = torch.relu(self.embed(rows, per_sample_weights=weights) + self.embed_bias)
        return self.out(torch.relu(self.hidden(first)))


def _train(examples: _Examples, seed: int, epochs: int, batch: int = 1024) -> _Network:
    torch.manual_seed(seed)
    network = _Network(int(examples.rows.max()) + 1, len(examples.outputs))
    batch = min(batch, len(examples.targets))
    steps = epochs * (len(examples.targets) // batch)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.1)
    for _ in range(epochs):
        order = torch.randperm(len(examples.targets))
        for pick in order[: len(order) // batch * batch].view(-1, batch):
            weights = torch.ones(batch, examples.rows.shape[1])
            # At run time earlier outputs may be wrong: the network must not lean on them alone.
            weights[:, -HISTORY:] = (torch.rand(batch, HISTORY) > 0.1).float()
            loss = nn.functional.cross_entropy(network(examples.rows[pick], weights), examples.targets[pick])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network


def _save(network: _Network, outputs: list[str], out_path: str | Path) -> None:
    tensors = {
        "embed": network.embed.weight,
        "embed_bias": network.embed_bias,
        "hidden": network.hidden.weight.T,
        "hidden_bias": network.hidden.bias,
        "out": network.out.weight.T,
        "out_bias": network.out.bias,
    }
    halves = {name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}
    # One entry only: the order of several is not fixed, and the same training must give the same file.
    sizes = json.dumps({"outputs": outputs, "reach": REACH, "history": HISTORY})
    replace_file(Path(out_path), save(halves, {"letters": sizes}))


def _edits(heard: list[str], wanted: list[str]) -> int:
    row = list(range(len(wanted) + 1))
    for i, a in enumerate(heard, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(wanted, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]
