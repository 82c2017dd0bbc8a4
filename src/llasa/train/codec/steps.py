"""What the tasks of both codecs share: one update, and critics that learn beside what they judge."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llasa.codec.base import STREAMING
from llasa.train.codec.critics import Opinion, apart, features_of, unconvinced
from llasa.train.codec.losses import matched
from llasa.train.group import average_gradients


def update(
    optimizer: torch.optim.Optimizer, loss: Tensor, parameters: Sequence[nn.Parameter], clip: float
) -> None:
    """Take one step down the loss, the gradient averaged over processes and clipped."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    average_gradients(parameters)
    nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()


def take_from_first(module: nn.Module) -> None:
    """Make the parameters of a module what they are in the first process; alone, do nothing."""
    if dist.is_initialized():
        for parameter in module.parameters():
            dist.broadcast(parameter.data, 0)


class Adversary:
    """Critics and their optimiser. What is averaged is smooth; a critic asks for the detail back."""

    def __init__(self, net: nn.Module, learning_rate: float, clip: float = 1.0) -> None:
        self.net, self.clip = net, clip
        self.parameters = list(net.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, learning_rate, betas=(0.8, 0.9), fused=True)

    def judge(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor, float]:
        """Learn to tell a real batch from a decoded one, where gradients are on; then judge the decoded one.

        Returns:
            How unconvinced the critics are, how far the features of the decoded batch are off, and how well
            the critics told the two apart: 0 at best, 0.5 if they cannot.
        """
        self.net.requires_grad_(torch.is_grad_enabled())
        told: list[Opinion] = self.net(real.detach())
        loss = apart(told, self.net(fake.detach()))
        if torch.is_grad_enabled():
            update(self.optimizer, loss, self.parameters, self.clip)
        self.net.requires_grad_(False)  # the decoded batch's gradient goes through them, not into them
        opinions: list[Opinion] = self.net(fake)
        return unconvinced(opinions), matched(features_of(opinions), features_of(told)), loss.item()


def total(parts: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Return the weighted sum of the losses."""
    return torch.stack([weights[name] * loss.float() for name, loss in parts.items()]).sum()


def entropy_bits(codes: Tensor) -> float:
    """Return the entropy of one batch's code use; a batch of n codes shows log2(n) bits at most."""
    _, counts = codes.flatten().unique(return_counts=True)
    share = counts.float() / counts.sum()
    return float(-(share * share.log2()).sum())


def copied(init: str, folder: Path) -> Path:
    """Copy the codec that a streaming decoder is for, and return where in the copy that decoder belongs."""
    shutil.copytree(init, folder, ignore=shutil.ignore_patterns(STREAMING))
    return folder / STREAMING
