"""What is wrong with a decoded sound: nothing if it is equal, more if it is further off; critics can tell."""

import pytest
import torch

from llasa.train.codec.critics import Patches, WaveCritics, apart, features_of, unconvinced
from llasa.train.codec.losses import MEL_COUNTS, matched, mel_loss, multi_mel_loss, spectral_loss
from llasa.train.codec.recipe import Critics
from llasa.train.codec.steps import Adversary, entropy_bits

SMALL = Critics(periods=[2, 3], period_channels=4, period_most=16, fft_sizes=[126, 334], channels=4, most=16)


def wave(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 8000, generator=torch.Generator().manual_seed(seed)) * 0.1


def test_losses_are_zero_on_equal_input_and_grow_with_distance():
    mel, sound = torch.randn(2, 40, 32), wave()
    assert mel_loss(mel, mel) == 0 and spectral_loss(sound, sound) == 0
    assert multi_mel_loss(sound, sound, 16000) == 0
    assert mel_loss(mel, mel + 0.2) > mel_loss(mel, mel + 0.1)
    assert spectral_loss(sound * 0.5, sound) > spectral_loss(sound * 0.9, sound)
    assert multi_mel_loss(sound * 0.5, sound, 16000) > multi_mel_loss(sound * 0.9, sound, 16000)


def test_a_tenth_of_the_level_is_one_in_every_resolution():
    # log10 of a tenth is -1 wherever a band holds something.
    found = multi_mel_loss(wave() * 0.1, wave(), 16000)
    assert found == pytest.approx(len(MEL_COUNTS), rel=0.2) and found <= len(MEL_COUNTS)


def test_critics_hear_period_and_spectrum():
    net = WaveCritics(Critics())
    told = net(wave())
    assert len(told) == 5 + 8
    # HiFi-GAN's widths: 16 channels, times four, 512 at most.
    widths = [layer.weight.shape[0] for layer in net.parts[0].net.layers]
    assert widths == [16, 64, 256, 512, 512]
    assert [part.size for part in net.parts[5:]] == [78, 126, 206, 334, 542, 876, 1418, 2296]
    assert len(Patches()(torch.randn(2, 80, 32))) == 1


def test_an_adversary_learns_to_tell_noise_from_a_tone_and_leaves_the_decoder_alone():
    torch.manual_seed(0)
    tone = torch.sin(torch.arange(4000) * 0.2).expand(4, -1) * 0.3
    adversary = Adversary(WaveCritics(SMALL), 1e-2)
    fake = (torch.randn(4, 4000) * 0.3).requires_grad_(True)
    told = []
    for _ in range(30):
        worth, off, how_well = adversary.judge(tone, fake)
        told.append(how_well)
    assert told[-1] < 0.1 < told[0]
    assert worth > 1.0 and off > 0  # four critics, all sure of it
    (worth + off).backward()
    assert fake.grad is not None and fake.grad.abs().sum() > 0
    assert all(p.grad is None or not p.requires_grad for p in adversary.parameters)


def test_what_critics_say_of_equal_sound():
    net = WaveCritics(SMALL)
    told = net(wave())
    assert matched(features_of(told), features_of(net(wave()))) == 0
    assert matched(features_of(told), features_of(net(wave(1)))) > 0
    half = [(torch.full((1, 1), 0.5), [])]
    assert apart(half, half) == 0.5 and unconvinced(half) == 0.25


def test_entropy_of_codes():
    assert entropy_bits(torch.tensor([[7, 7, 7, 7]])) == 0
    assert entropy_bits(torch.arange(16)[None]) == pytest.approx(4)
