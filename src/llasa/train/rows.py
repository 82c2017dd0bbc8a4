"""Training rows of the language model, built by `prompt.py` as inference builds them, and a run's batches.

A row is what an utterance is to say and its codes; before them, often, stand transcript and codes of another
utterance of the speaker, as a voice stands there when cloning. Where word ends are known, a run may begin
with crops of a word or two that grow into sentences: a model trained from nothing finds its alignment sooner.

What is drawn depends on seed and position only, so a run goes on where it stopped. Shapes: B rows of S ids.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Protocol

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor
from torch.utils.data import Dataset

from llasa import config
from llasa.core import Codes, Ids
from llasa.data.packing import Order, cut, padded
from llasa.data.rejects import Reject
from llasa.data.shards import Row
from llasa.errors import InputError
from llasa.prompt import IGNORED, Prompt

Form = Callable[[str, str], str]  # text and language -> the form that the model reads
Example = tuple[Ids, Ids]  # ids, labels
Share = Annotated[float, Field(ge=0)]
CALIBRATED = 200  # rows built to learn how long voices make them
TRIES = 4  # rows of the speaker looked at for one that can be a voice; words cut out until some can be said


class RowsBlock(BaseModel):
    """How rows are made; shares are of rows, and progress goes from 0 to 1.

    tokens: ids of a batch on one device. max_length: of a row, ids; the bundle's if None. Longer rows are
    rejected.
    voice_prompt: share with another utterance of the speaker before them, if it has at most `prompt_codes`
    codes or can be cut there; prompt_words: cut to a run of at most so many words. learn_prompt: whether its
    codes are learnt too.
    grow: share of the run in which crops grow to whole rows; only half as many have a voice then. words:
    the longest crop, words. cropped: share that are crops afterwards.
    corrupt: a row has up to this share of its input codes replaced at random, so that the model learns to
    live with its own mistakes.
    balance: 0 draws speakers by how much they said, 1 all alike. speakers: how much more often than that.
    full_stop: share of whole rows without a final mark that get one.
    """

    model_config = config.STRICT
    tokens: int = Field(default=8192, gt=0)
    max_length: int | None = Field(default=None, gt=0)
    voice_prompt: float = Field(default=0.5, ge=0, le=1)
    prompt_codes: int = Field(default=250, gt=0)
    prompt_words: int | None = Field(default=None, gt=0)
    learn_prompt: bool = False
    grow: float = Field(default=0.0, ge=0, le=1)
    words: int = Field(default=20, gt=0)
    cropped: float = Field(default=0.0, ge=0, le=1)
    corrupt: float = Field(default=0.0, ge=0, lt=1)
    balance: float = Field(default=0.0, ge=0, le=1)
    speakers: dict[str, Share] = {}
    full_stop: float = Field(default=0.0, ge=0, le=1)

    def longest(self, progress: float) -> int | None:
        """Return the longest crop in words now, or None for whole rows."""
        ratio = progress / self.grow if self.grow else 1.0
        return None if ratio >= 1 else 2 + int(self.words * ratio * ratio)


class Source(Protocol):
    """Rows of a prepared folder; see `data.shards.Shards`. speakers: of each row, empty where not known."""

    @property
    def speakers(self) -> Sequence[str]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Row: ...


class Corpus:
    """Rows of several sources, one after another.

    speakers: of each row, by number; those of two sources are two, whatever their names. shares: how often
    a row is drawn, 1 on average over a source of weight 1.
    """

    def __init__(self, sources: Sequence[tuple[Source, float]], block: RowsBlock) -> None:
        """Take sources with how many times an epoch each is drawn."""
        self.sources = [source for source, _ in sources]
        self.starts = np.cumsum([0, *(len(source) for source in self.sources)])
        names = [(at, name) for at, source in enumerate(self.sources) for name in source.speakers]
        self.names = list(dict.fromkeys(names))
        numbers = {name: number for number, name in enumerate(self.names)}
        self.speakers = np.array([numbers[name] for name in names], np.int32)
        parts = [_shares(source.speakers, block) * weight for source, weight in sources]
        self.shares = np.concatenate(parts) if parts else np.zeros(0)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> Row:
        at = int(np.searchsorted(self.starts, index, "right")) - 1
        return self.sources[at][int(index - self.starts[at])]


def _shares(speakers: Sequence[str], block: RowsBlock) -> np.ndarray:
    names, numbers, counts = np.unique(np.asarray(speakers, object), return_inverse=True, return_counts=True)
    stress = np.array([block.speakers.get(str(name), 1.0) for name in names])
    shares = (counts**-block.balance * stress)[numbers]
    return shares * len(shares) / shares.sum() if len(shares) else shares


class Rows:
    """Builds training rows. lengths: of whole rows without a voice, ids; 0 for those in `rejects`."""

    def __init__(
        self, corpus: Corpus, prompt: Prompt, form: Form, block: RowsBlock, max_length: int,
        track: Callable[[Sequence[int]], Iterator[int]] = iter,
    ) -> None:  # fmt: skip
        """Measure every row once; `track` may show how far that is."""
        self.corpus, self.prompt, self.form, self.block = corpus, prompt, form, block
        self.max_length = min(max_length, block.max_length or max_length)
        self.rejects: list[Reject] = []
        self.lengths = np.array([self._length(index) for index in track(range(len(corpus)))], np.int32)
        self.kin = _kin(np.flatnonzero(self.lengths), corpus)
        self.longer = 1.0
        self.longer = self._longer()

    def _length(self, index: int) -> int:
        row = self.corpus[index]
        try:
            ids, _ = self.prompt.example(self.form(row.text, row.language), [int(c) for c in row.codes])
        except InputError as error:
            self.rejects.append(Reject(row.id, f"row {index}", "bad-text", str(error)))
            return 0
        if len(ids) <= self.max_length:
            return len(ids)
        found = f"it makes {len(ids)} ids, more than max_length, {self.max_length}"
        self.rejects.append(Reject(row.id, f"row {index}", "too-long", found))
        return 0

    def order(self, seed: int, share: float = 1.0) -> Order:
        """Return the order in which rows are drawn, to fill a share of batches of `tokens` ids."""
        shares = np.where(self.lengths > 0, self.corpus.shares, 0.0)
        return Order(self.lengths * self.longer, round(self.block.tokens * share), shares, seed)

    def _longer(self) -> float:
        """Return how many times as long voices make rows."""
        random = np.random.default_rng(0)
        rows = random.permutation(np.flatnonzero(self.lengths))[:CALIBRATED]
        built = sum(len(ids) for row in rows for ids, _ in self.build(int(row), 1.0, random))
        return built / max(1, int(self.lengths[rows].sum()))

    def build(self, index: int, progress: float, random: np.random.Generator) -> list[Example]:
        """Return a row, or crops of it that are about as long together, as ids and labels."""
        row, longest = self.corpus[index], self.block.longest(progress)
        if not _is_aligned(row) or (longest is None and random.random() >= self.block.cropped):
            return [self._example(index, self.piece(row, None, random), longest, random)]
        built: list[Example] = []
        while sum(len(ids) for ids, _ in built) < self.lengths[index] * (self.longer if longest else 1.0):
            piece = self.piece(row, longest or self.block.words, random)
            built.append(self._example(index, piece, longest, random))
        return built

    def _example(
        self, index: int, piece: tuple[str, Codes], longest: int | None, random: np.random.Generator
    ) -> Example:
        share = self.block.voice_prompt * (0.5 if longest else 1.0)
        voice = self._voice(index, longest, random) if random.random() < share else None
        if voice is not None:
            ids, labels = self.example(piece, voice)
            if len(ids) <= self.max_length:
                return ids, labels
        return self.prompt.example(*piece)

    def example(self, piece: tuple[str, Codes], voice: tuple[str, Codes]) -> Example:
        """Return the row of text and codes after a voice's text and codes."""
        if not self.block.learn_prompt:
            return self.prompt.example(*piece, *voice)
        return self.prompt.example(f"{voice[0]}{self.prompt.separator}{piece[0]}", [*voice[1], *piece[1]])

    def _voice(
        self, index: int, longest: int | None, random: np.random.Generator
    ) -> tuple[str, Codes] | None:
        """Return text and codes of another row of the speaker, None if none can be a voice."""
        kin = self.kin.get(int(self.corpus.speakers[index]), ())
        for _ in range(TRIES if len(kin) > 1 else 0):
            chosen = int(kin[random.integers(len(kin))])
            row = self.corpus[chosen]
            fits = _is_aligned(row) or len(row.codes) <= self.block.prompt_codes
            if chosen != index and fits:
                words = longest or self.block.prompt_words
                return self.piece(row, words, random, self.block.prompt_codes)
        return None

    def piece(
        self, row: Row, words: int | None, random: np.random.Generator, codes: int | None = None
    ) -> tuple[str, Codes]:
        """Return the text (as the model reads it) and codes of a row, or of a run of words in it.

        The run has at most `words` words, and is shortened to `codes` codes, but never below one word.
        """
        for _ in range(TRIES):
            text, start, end = self._run(row, words, random, codes)
            try:
                return self.form(text, row.language), [int(code) for code in row.codes[start:end]]
            except InputError:  # a run of punctuation
                continue
        return self.form(row.text, row.language), [int(code) for code in row.codes]

    def _run(
        self, row: Row, words: int | None, random: np.random.Generator, codes: int | None
    ) -> tuple[str, int, int]:
        said, ends, size = row.text.split(), row.word_ends, len(row.codes)
        if not _is_aligned(row):
            return self._stopped(row.text, random), 0, size
        first, last = 0, len(said)
        if words is not None and words < len(said):
            count = 1 + int(random.integers(words))
            first = int(random.integers(len(said) - count + 1))
            last = first + count
        # A word shorter than one code shares its neighbour's.
        start = min(int(ends[first - 1]), size - 1) if first else 0
        while codes is not None and last - first > 1 and int(ends[last - 1]) - start > codes:
            last -= 1
        text = " ".join(said[first:last])
        if last < len(said):
            return text.rstrip(","), start, max(start + 1, int(ends[last - 1]))
        return self._stopped(text, random), start, size  # the final silence belongs to the last word

    def _stopped(self, text: str, random: np.random.Generator) -> str:
        open_end = text[-1:] not in (",", ".", "?", "!")
        return f"{text}." if open_end and random.random() < self.block.full_stop else text


def _kin(usable: np.ndarray, corpus: Corpus) -> dict[int, np.ndarray]:
    """Return the rows of each speaker that is known."""
    rows = usable[np.argsort(corpus.speakers[usable], kind="stable")]
    speakers, starts = np.unique(corpus.speakers[rows], return_index=True)
    parts = zip(speakers.tolist(), np.split(rows, starts[1:]), strict=False)  # of no rows there is one part
    return {speaker: part for speaker, part in parts if corpus.names[speaker][1]}


def _is_aligned(row: Row) -> bool:
    return 1 < len(row.word_ends) == len(row.text.split())


def tensors(examples: Sequence[Example], prompt: Prompt) -> dict[str, Tensor]:
    """Return rows as a model takes them: ids and labels, int64 [B, S], padded on the right."""
    ids = padded([ids for ids, _ in examples], prompt.end_id)
    labels = padded([labels for _, labels in examples], IGNORED)
    return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}


class Batches(Dataset[dict[str, Tensor]]):
    """The batches of a run, by position."""

    def __init__(
        self, rows: Rows, order: Order, total: int, chat: Sequence[Example] = (), share: float = 0.0
    ) -> None:
        """Take how many batches the run has, over all processes, and chat that is a share of their ids."""
        self.rows, self.order, self.total = rows, order, total
        self.chat, self.share = chat, share if chat else 0.0
        self.window = lru_cache(maxsize=2)(self._window)

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return the batch at a position in the run: `input_ids` and `labels`."""
        made = tensors(self.examples(index), self.rows.prompt)
        spoilt = self._corrupted(
            made["input_ids"].numpy(), np.random.default_rng((self.order.seed, 1, index))
        )
        return made | {"input_ids": torch.from_numpy(spoilt)}

    def examples(self, index: int) -> list[Example]:
        """Return the rows of the batch at a position, nothing in them corrupted."""
        epoch, window, inside = self.order.place(index)
        return self.window(epoch, window)[inside]

    def tokens(self, index: int) -> int:
        """Return the ids of a batch that are no padding."""
        return sum(len(ids) for ids, _ in self.examples(index))

    def _window(self, epoch: int, window: int) -> list[list[Example]]:
        progress = (epoch * self.order.windows + window) * self.order.batches / self.total
        random = np.random.default_rng((self.order.seed, 2, epoch, window))
        rows = self.order.rows(epoch, window)
        built = [example for row in rows for example in self.rows.build(int(row), progress, random)]
        wanted = sum(len(ids) for ids, _ in built) * self.share / (1 - self.share)
        while wanted > 0:
            built.append(self.chat[int(random.integers(len(self.chat)))])
            wanted -= len(built[-1][0])
        parts = cut([len(ids) for ids, _ in built], self.order.batches, random)
        return [[built[place] for place in part] for part in parts]

    def _corrupted(self, ids: np.ndarray, random: np.random.Generator) -> np.ndarray:
        first, size = self.rows.prompt.first_code_id, self.rows.prompt.codebook_size
        share = random.random((len(ids), 1)) * self.rows.block.corrupt
        spoilt = (random.random(ids.shape) < share) & (ids >= first) & (ids < first + size)
        return np.where(spoilt, random.integers(first, first + size, ids.shape), ids)
