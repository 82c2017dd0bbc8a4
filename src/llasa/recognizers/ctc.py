"""A small CTC recogniser of phones or characters, trainable on a CPU. Knows no codec and no language model.

Sound -> log-mel -> strided convolution -> blocks -> a distribution over blank and tokens for each frame.
Shapes: B batch, T samples, M mel bands, F mel frames, N output frames, D width, V tokens and blank.

Source: CTC, A. Graves et al., *Connectionist Temporal Classification* (2006).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from llasa.audio import resample
from llasa.core import Audio, Ids
from llasa.errors import BundleError, InputError
from llasa.recognizers.base import TextForm, Transcript
from llasa.recognizers.cache import Memory, checked
from llasa.text.phones import PHONES, PUNCTUATION, WORD_BREAK

BLANK, MARK = 0, 1  # ids of no token and of the word mark
TOKENS: dict[TextForm, tuple[str, ...]] = {
    "phones": (WORD_BREAK, *PHONES),
    "characters": (" ", "'", *"abcdefghijklmnopqrstuvwxyz"),
}


@dataclass(frozen=True)
class CtcConfig:
    """Sizes. blocks: names out of `BLOCKS`, in order; hop in samples; stride: mel frames an output frame.

    mel_floor: natural log of the smallest mel magnitude kept, so that faint noise is silence.
    tokens: those of another alphabet than English's, the word mark first; empty: `TOKENS` of the text form.
    """

    text_form: TextForm
    blocks: tuple[str, ...]
    width: int
    stride: int
    n_fft: int
    sample_rate: int = 16000
    n_mels: int = 80
    hop: int = 160
    mel_floor: float = -4.0
    tokens: tuple[str, ...] = ()

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The tokens; their ids count from 1."""
        return self.tokens or TOKENS[self.text_form]

    @property
    def frame_length(self) -> int:
        """Samples an output frame."""
        return self.hop * self.stride


# Two recognisers that share no layer type, frame rate or token, so that one can check what the other picked.
LAYOUTS = {
    "A": CtcConfig("phones", ("convnext",) * 8, width=192, stride=3, n_fft=512),
    "B": CtcConfig("characters", ("gated",) * 5 + ("gru",), width=128, stride=2, n_fft=400),
}


class LogMel(nn.Module):
    """Log-mel magnitudes above the floor: [B, T] -> [B, M, T // hop]; T a multiple of hop. 0 is silence."""

    filters: Tensor
    window: Tensor

    def __init__(self, config: CtcConfig) -> None:
        super().__init__()
        self.config = config
        top_hz = config.sample_rate / 2
        edges = 700 * (10 ** (torch.linspace(0, np.log10(1 + top_hz / 700), config.n_mels + 2)) - 1)
        bins = torch.linspace(0, top_hz, config.n_fft // 2 + 1)[:, None]
        rise, fall = (bins - edges[:-2]) / edges.diff()[:-1], (edges[2:] - bins) / edges.diff()[1:]
        self.register_buffer("filters", torch.minimum(rise, fall).clamp(min=0), persistent=False)
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        c = self.config
        around = c.n_fft - c.hop
        padded = F.pad(samples, (around // 2, around - around // 2))
        spectrum = torch.stft(padded, c.n_fft, c.hop, window=self.window, center=False, return_complex=True)
        mel = (spectrum.abs().transpose(1, 2) @ self.filters).transpose(1, 2)
        return mel.clamp(min=float(np.exp(c.mel_floor))).log() - c.mel_floor


class ConvNeXt(nn.Module):
    """Depthwise convolution and pointwise MLP with a scaled skip. [B, D, N] -> [B, D, N]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, 9, padding=4, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.2))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.depthwise(x * mask).transpose(1, 2)
        return x + (self.scale * self.down(F.gelu(self.up(self.norm(y))))).transpose(1, 2)


class Gated(nn.Module):
    """Full convolution with a gated linear unit and a skip. [B, D, N] -> [B, D, N].

    Source: Y. Dauphin et al., arXiv 1612.08083.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, 2 * width, 7, padding=3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x + F.glu(self.conv(self.norm(x.transpose(1, 2)).transpose(1, 2) * mask), 1)


class Recurrent(nn.Module):
    """GRU in both directions over the real frames, with a skip. [B, D, N] -> [B, D, N]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        lengths = mask.sum((1, 2)).long().cpu()
        packed = pack_padded_sequence(x.transpose(1, 2).float(), lengths, True, enforce_sorted=False)
        # Thousands of tiny products: casting each would cost more than bfloat16 saves.
        with torch.autocast(x.device.type, enabled=False):
            y, _ = pad_packed_sequence(self.gru(packed)[0], True, total_length=x.shape[-1])
        return x + self.out(y).transpose(1, 2)


BLOCKS: dict[str, type[nn.Module]] = {"convnext": ConvNeXt, "gated": Gated, "gru": Recurrent}


class CtcModel(nn.Module):
    """The trainable network."""

    def __init__(self, config: CtcConfig) -> None:
        super().__init__()
        self.config = config
        self.log_mel = LogMel(config)
        stride, around = config.stride, config.stride // 2
        self.stem = nn.Conv1d(config.n_mels, config.width, stride + 2 * around, stride, around)
        self.blocks = nn.ModuleList(BLOCKS[name](config.width) for name in config.blocks)
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, len(config.vocabulary) + 1)

    def forward(self, mel: Tensor, counts: Sequence[int]) -> Tensor:
        """Return log-probabilities [B, N, V], float32, of log-mel [B, M, N * stride]; counts: frames."""
        mask = torch.arange(max(counts), device=mel.device) < torch.tensor(counts, device=mel.device)[:, None]
        mask = mask[:, None].to(mel.dtype)
        x = self.stem(mel * mask.repeat_interleave(self.config.stride, -1))
        for block in self.blocks:
            x = block(x, mask)
        return self.out(self.norm(x.transpose(1, 2))).float().log_softmax(-1)


def levelled(samples: np.ndarray) -> np.ndarray:
    """Return samples [T] at the RMS the model expects; silence stays silence."""
    return samples * (0.05 / max(1e-3, float(np.sqrt(np.mean(np.square(samples))))))


def batched(rows: Sequence[np.ndarray], config: CtcConfig) -> tuple[Tensor, list[int]]:
    """Return samples [B, N * frame_length], zeros after each row, and the output frames of each row."""
    counts = [-(-len(row) // config.frame_length) for row in rows]
    batch = torch.zeros(len(rows), max(counts) * config.frame_length)
    for target, row in zip(batch, rows, strict=True):
        target[: len(row)] = torch.from_numpy(row)
    return batch, counts


def token_ids(text: str, text_form: TextForm, tokens: Sequence[str] = ()) -> Ids:
    """Return the ids of a text: phones separated by spaces, or characters. Punctuation ends a word.

    Raises:
        InputError: the text has no token, or one that is not in `tokens`, by default those of `TOKENS`.
    """
    tokens = tokens or TOKENS[text_form]
    mark = tokens[0]
    said = text.split() if text_form == "phones" else text
    joined = _single_marks([mark if t in PUNCTUATION else t for t in said], mark)
    unknown = sorted(set(joined) - set(tokens))
    if unknown or not joined:
        raise InputError(
            f"Reading a text for the recogniser: found {unknown or 'no tokens'} in {text[:40]!r}. "
            f"Give {text_form} out of: {' '.join(tokens).strip()}."
        )
    return [tokens.index(t) + 1 for t in joined]


def _single_marks(tokens: Sequence[str], mark: str) -> list[str]:
    """Return tokens with one mark between words and none at the ends."""
    words = [list(group) for is_mark, group in groupby(tokens, mark.__eq__) if not is_mark]
    return [token for word in words for token in (mark, *word)][1:]


class CtcRecognizer:
    """A `Recognizer` over `CtcModel`: greedy transcripts and exact CTC likelihoods.

    One pass over a clip serves both, so `model` must not be trained on while this is in use.
    """

    def __init__(self, model: CtcModel, name: str = "ctc@untrained", remembered: int = 256) -> None:
        """Listen with `model`; remembered: how many clips' log-probabilities are kept."""
        self.model = model.eval()
        self.name = name
        self.config = model.config
        self.text_form: TextForm = model.config.text_form
        self.memory: Memory[Tensor] = Memory(remembered)

    @classmethod
    def load(cls, folder: str | Path) -> "CtcRecognizer":
        """Return the recogniser of a folder with `config.json` and `model.safetensors`.

        Raises:
            BundleError: a file is missing or damaged, or the weights do not fit the config exactly.
        """
        config, weights = Path(folder) / "config.json", Path(folder) / "model.safetensors"
        try:
            fields = json.loads(config.read_text(encoding="utf-8"))
            lists = {name: tuple(fields.get(name, ())) for name in ("blocks", "tokens")}
            model = CtcModel(CtcConfig(**fields | lists))
            model.load_state_dict(load_file(weights))
            digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
        except (
            OSError,
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            RuntimeError,
            SafetensorError,
        ) as error:
            raise BundleError(
                f"Loading the CTC recogniser from '{folder}': {error!r}. Reinstall or rebuild the bundle."
            ) from error
        return cls(model, f"ctc-{model.config.text_form}@{digest}")

    @classmethod
    def random(cls, seed: int = 0, text_form: TextForm = "phones") -> "CtcRecognizer":
        """Return a tiny untrained recogniser with a block of each kind: for tests."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = CtcConfig(text_form, tuple(BLOCKS), width=16, stride=2, n_fft=400, n_mels=40)
            return cls(CtcModel(config))

    def save(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`, in float16: half the size."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(self.config), indent=1) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
        weights = {name: value.half().contiguous() for name, value in self.model.state_dict().items()}
        save_file(weights, folder / "model.safetensors")

    def transcribe(self, audio: Sequence[Audio]) -> list[Transcript]:
        """See `Recognizer.transcribe`. The best token of each frame, repeats joined, blanks removed.

        text has one mark between words and none at the ends; tokens are as heard. spans: the frames of
        a token's peak, which CTC makes shorter than the sound. logprobs: mean over these.
        """
        return [self._greedy(scores) for scores in self._log_probs(audio)]

    def log_likelihood(self, audio: Sequence[Audio], texts: Sequence[str]) -> list[float]:
        """See `Recognizer.log_likelihood`. Sums over all alignments (the CTC forward score)."""
        if len(audio) != len(texts):
            found = f"{len(audio)} clips and {len(texts)} texts"
            raise InputError(f"Scoring texts: found {found}. Give one text a clip.")
        if not audio:
            return []
        targets = [torch.tensor(token_ids(text, self.text_form, self.config.tokens)) for text in texts]
        scores = self._log_probs(audio)
        sizes, frames = (torch.tensor([len(row) for row in rows]) for rows in (targets, scores))
        padded, batch = pad_sequence(targets, batch_first=True), pad_sequence(scores)
        lost = F.ctc_loss(batch, padded, frames, sizes, BLANK, reduction="none")
        return (-lost / sizes).tolist()

    def _log_probs(self, audio: Sequence[Audio]) -> list[Tensor]:
        """Return log-probabilities [N, V] of each clip."""
        return self.memory.get(checked(audio), self._listen)

    @torch.inference_mode()
    def _listen(self, clips: list[Audio]) -> list[Tensor]:
        rate = self.config.sample_rate
        samples, counts = batched([levelled(resample(clip, rate).samples) for clip in clips], self.config)
        samples = samples.to(self.model.out.weight.device)
        scores = self.model(self.model.log_mel(samples), counts).cpu()
        return [row[:count].clone() for row, count in zip(scores, counts, strict=True)]

    def _greedy(self, scores: Tensor) -> Transcript:
        best, ids = scores.max(-1)
        tokens, spans, logprobs, start = [], [], [], 0
        frame_s = self.config.frame_length / self.config.sample_rate
        for found, group in groupby(ids.tolist()):
            end = start + len(list(group))
            if found != BLANK:
                tokens.append(self.config.vocabulary[found - 1])
                spans.append((start * frame_s, end * frame_s))
                logprobs.append(float(best[start:end].mean()))
            start = end
        words = _single_marks(tokens, self.config.vocabulary[0])
        text = (" " if self.text_form == "phones" else "").join(words)
        return Transcript(text, tuple(tokens), tuple(spans), tuple(logprobs))
