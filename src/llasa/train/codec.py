"""Trains the compact codec: its tokenizer (mel to codes to mel), its vocoder (mel to sound),
then its decoder again.

Stages: `tokenizer` fits encoder, FSQ and decoder on mel crops; `vocoder` fits the vocoder on real mel;
`decoder` freezes the encoder, so codes made before stay valid, and tunes the decoder against a critic. A
linear head on the decoder's trunk names the phone of each half code while training: codes then carry what was
said before how it sounded (the idea of X-Codec's semantic branch, arXiv 2408.17175).

Shapes as in codec/compact_network.py.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llasa.codec.compact_network import CompactConfig, CompactModel
from llasa.train.loop import average_gradients, rate_at

STFT_SIZES = (128, 256, 512, 1024, 2048)


@dataclass(frozen=True)
class Recording:
    """One training utterance. samples: int16 [T]; phones with end times in seconds, empty when unknown."""

    samples: np.ndarray
    phones: Sequence[str] = ()
    phone_ends: Sequence[float] = ()


def read_shards(folder: Path, names: Sequence[str] | None = None) -> list[Recording]:
    """Return the recordings of `NAME.pcm` + `NAME.jsonl` shards, memory-mapped."""
    recordings = []
    for path in sorted(folder.glob("*.jsonl")):
        if names and path.stem not in names:
            continue
        sound = np.memmap(path.with_suffix(".pcm"), np.int16, "r")
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            samples = sound[row["offset"] : row["offset"] + row["samples"]]
            recordings.append(Recording(samples, row.get("phones", ()), row.get("phone_ends", ())))
    return recordings


class Crops:
    """Random crops of recordings, each recording brought to one loudness.

    batch(count, frames) -> samples [B, frames * mel_hop] and phone labels [B, frames // 2] (-100 = unknown).
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        config: CompactConfig,
        phones: Sequence[str],
        level: float = 0.08,
    ) -> None:
        """Take recordings; `phones` names the labels, the same for training and held-out crops."""
        self.config, self.phones = config, list(phones)
        index = {p: i for i, p in enumerate(self.phones)}
        self.label_hop = 2 * config.mel_hop
        self.recordings = [r for r in recordings if len(r.samples) > 40 * config.hop_length]
        self.labels = [self._label(r, index) for r in self.recordings]
        self.gains = [level / max(1e-3, active_rms(r.samples)) for r in self.recordings]
        lengths = torch.tensor([float(len(r.samples)) for r in self.recordings])
        self.weights = lengths / lengths.sum()

    def _label(self, recording: Recording, index: Mapping[str, int]) -> Tensor:
        count = len(recording.samples) // self.label_hop + 1
        if not recording.phones:
            return torch.full((count,), -100)
        centres = (np.arange(count) + 0.5) * self.label_hop / self.config.sample_rate
        places = np.searchsorted(np.asarray(recording.phone_ends), centres)
        ids = np.array([index[p] for p in recording.phones])
        return torch.from_numpy(ids[np.minimum(places, len(ids) - 1)])

    def batch(self, count: int, frames: int) -> tuple[Tensor, Tensor]:
        picks = torch.multinomial(self.weights, count, replacement=True).tolist()
        size = frames * self.config.mel_hop
        samples, labels = torch.zeros(count, size), torch.full((count, frames // 2), -100)
        for row, pick in enumerate(picks):
            recording = self.recordings[pick]
            slots = max(1, (len(recording.samples) - size) // self.label_hop)
            start = int(torch.randint(slots, ()))
            part = recording.samples[start * self.label_hop : start * self.label_hop + size]
            gain = self.gains[pick] * 10 ** float(torch.empty(()).uniform_(-0.15, 0.15))
            samples[row, : len(part)] = torch.from_numpy(part.astype(np.float32)) * (gain / 32768)
            found = self.labels[pick][start : start + frames // 2]
            labels[row, : len(found)] = found
        return samples, labels


def active_rms(samples: np.ndarray) -> float:
    """Return the root mean square of the louder half of 20 ms blocks, in [0, 1]."""
    blocks = samples[: len(samples) // 320 * 320].reshape(-1, 320).astype(np.float32) / 32768
    energy = np.sort((blocks**2).mean(1))
    return float(np.sqrt(energy[len(energy) // 2 :].mean()))


def mel_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Return L1 + 0.5 L2 + 0.3 L1 of frame differences, nats."""
    delta = (predicted.diff(dim=-1) - target.diff(dim=-1)).abs().mean()
    return (predicted - target).abs().mean() + 0.5 * (predicted - target).square().mean() + 0.3 * delta


def spectral_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Return log-magnitude L1 plus spectral convergence over windows of 8 to 128 ms;
    short ones tie pitch pulses.
    """
    total = predicted.new_zeros(())
    for size in STFT_SIZES:
        window = torch.hann_window(size)
        a, b = (
            torch.view_as_real(torch.stft(x, size, size // 4, window=window, return_complex=True))
            .square().sum(-1).clamp(min=1e-6).sqrt()
            for x in (predicted, target)
        )  # fmt: skip
        total = total + (a.log() - b.log()).abs().mean() + (a - b).norm() / b.norm().clamp(min=1e-3)
    return total / len(STFT_SIZES)


class Discriminator(nn.Module):
    """Tells real log-mel from decoded, patch by patch.
    [B, M, F] -> scores, and the features of each layer.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        sizes = (1, width, 2 * width, 4 * width)
        self.layers = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(nn.Conv2d(a, b, 5, stride=2, padding=2))
            for a, b in pairwise(sizes)
        )
        self.score = nn.Conv2d(sizes[-1], 1, 3, padding=1)

    def forward(self, mel: Tensor) -> tuple[Tensor, list[Tensor]]:
        x, features = mel[:, None], []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.score(x), features


class CodecTask:
    """One stage of codec training; see the module's docstring."""

    def __init__(
        self, stage: str, model: CompactModel, train: Crops, held: Crops, steps: int,
        batch: int, frames: int, learning_rate: float = 1.5e-3, phone_weight: float = 0.1,
    ) -> None:  # fmt: skip
        self.stage, self.model, self.train, self.held, self.steps = stage, model, train, held, steps
        self.size, self.learning_rate, self.phone_weight = (batch, frames), learning_rate, phone_weight
        self.head = nn.Linear(
            model.config.decoder_widths[0], model.config.frames_per_code // 2 * len(train.phones)
        )
        self.critic = Discriminator()
        parts = {
            "tokenizer": (model.encoder, model.decoder, self.head),
            "vocoder": (model.vocoder,),
            "decoder": (model.decoder, self.head),
        }[stage]
        self.parameters = [p for part in parts for p in part.parameters()]
        self.modules = {"codec": model, "phone-head": self.head, "critic": self.critic}
        self.optimizers = {
            "adamw": torch.optim.AdamW(
                self.parameters, learning_rate, betas=(0.8, 0.98), weight_decay=0.01, fused=True
            ),
            "critic": torch.optim.AdamW(self.critic.parameters(), 4e-4, betas=(0.5, 0.9), fused=True),
        }

    def step(self, index: int) -> dict[str, float]:
        """See `Task`."""
        self.model.train()
        # A frozen encoder keeps its whitening statistics: the codes must not move.
        self.model.encoder.train(self.stage == "tokenizer")
        for group in self.optimizers["adamw"].param_groups:
            group["lr"] = self.learning_rate * rate_at(index, self.steps)
        loss, measures = self._loss(self.train)
        self._update("adamw", loss, self.parameters)
        return measures

    def _update(self, name: str, loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
        self.optimizers[name].zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimizers[name].step()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """See `Task`."""
        self.model.eval()
        torch.manual_seed(1)
        rows = [self._loss(self.held)[1] for _ in range(8)]
        return {f"held_{name}": float(np.mean([row[name] for row in rows])) for name in rows[0]}

    def _loss(self, crops: Crops) -> tuple[Tensor, dict[str, float]]:
        samples, labels = crops.batch(*self.size)
        with torch.no_grad():
            mel = self.model.log_mel(samples)
        with torch.autocast("cpu", torch.bfloat16):
            if self.stage == "vocoder":
                loss = spectral_loss(self.model.vocoder(mel, torch.ones_like(mel[:, :1])), samples)
                return loss, {"spectral": loss.item()}
            return self._coded_loss(mel, labels)

    def _coded_loss(self, mel: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        frames = torch.ones_like(mel[:, :1])
        with torch.set_grad_enabled(self.stage == "tokenizer" and torch.is_grad_enabled()):
            points, codes = self.model.quantizer(self.model.encoder(mel, frames))
        predicted, features = self.model.decoder(points, frames[..., :: self.model.config.frames_per_code])
        said = self.head(features.transpose(1, 2)).float().reshape(len(mel), -1, len(self.train.phones))
        # A batch of real speech alone has no labels; a mean over nothing would be NaN.
        missed = F.cross_entropy(said.flatten(0, 1), labels.flatten(), reduction="sum")
        phone = missed / (labels >= 0).sum().clamp(min=1)
        loss = mel_loss(predicted.float(), mel) + self.phone_weight * phone
        measures = {"mel_l1": (predicted.float() - mel).abs().mean().item(), "phone": phone.item()}
        measures["bits"] = _entropy_bits(codes)
        if self.stage == "decoder":
            judged, told = self._judged_loss(predicted, mel)
            loss, measures = loss + judged, measures | told
        return loss, measures

    def _judged_loss(self, predicted: Tensor, mel: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Train the critic on this batch, then return what it makes of the decoded mel.

        Mel alone is fitted by its average, which is smooth; a critic asks for the detail back. Hinge loss and
        feature matching as in MelGAN, arXiv 1910.06711.
        """
        real, _ = self.critic(mel)
        fake, _ = self.critic(predicted.detach())
        apart = F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()
        if torch.is_grad_enabled():
            self._update("critic", apart, list(self.critic.parameters()))
        score, found = self.critic(predicted)
        with torch.no_grad():
            _, wanted = self.critic(mel)
        matched = torch.stack(
            [(a.float() - b.float()).abs().mean() for a, b in zip(found, wanted, strict=True)]
        ).sum()
        return 0.05 * -score.float().mean() + 0.3 * matched, {
            "critic": apart.item(),
            "features": matched.item(),
        }


def _entropy_bits(codes: Tensor) -> float:
    """Return the entropy of one batch's code use; a batch of n codes shows log2(n) bits at most."""
    share = codes.flatten().bincount().float()
    share = share[share > 0] / share.sum()
    return float(-(share * share.log2()).sum())
