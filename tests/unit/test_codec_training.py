"""Codec training: stages touch what they say, labels follow phones, speech without phones does no harm."""

import numpy as np
import pytest
import torch

from llasa.codec.compact import CompactCodec
from llasa.train.codec import CodecTask, Crops, Recording, mel_loss, spectral_loss


def recordings(phones: bool) -> list[Recording]:
    rng, made = np.random.default_rng(0), []
    for _ in range(3):
        samples = (rng.standard_normal(48000) * 3000).astype(np.int16)
        made.append(Recording(samples, ("a", "b"), (1.0, 3.0)) if phones else Recording(samples))
    return made


@pytest.mark.parametrize("stage", ["tokenizer", "vocoder", "decoder"])
def test_each_stage_changes_its_parts_only(stage):
    model = CompactCodec.random(0).model
    crops = Crops(recordings(phones=True), model.config, ("a", "b"))
    before = {
        name: {k: v.clone() for k, v in part.state_dict().items()} for name, part in model.named_children()
    }
    task = CodecTask(stage, model, crops, crops, steps=10, batch=2, frames=64)
    measures = task.step(0)
    changed = {
        name
        for name, part in model.named_children()
        if any(not torch.equal(v, before[name][k]) for k, v in part.state_dict().items())
    }
    assert changed == {"tokenizer": {"encoder", "decoder"}}.get(stage, {stage})
    assert all(np.isfinite(value) for value in (measures | task.validate()).values())


def test_speech_without_phones_trains_without_nan():
    model = CompactCodec.random(0).model
    crops = Crops(recordings(phones=False), model.config, ("a", "b"))
    task = CodecTask("tokenizer", model, crops, crops, steps=10, batch=2, frames=64)
    assert task.step(0)["phone"] == 0.0
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_labels_are_the_phones_at_that_time():
    config = CompactCodec.random(0).model.config
    crops = Crops(recordings(phones=True), config, ("a", "b"))
    labels = crops.labels[0]
    second = config.sample_rate // crops.label_hop
    assert set(labels[: second - 1].tolist()) == {0} and set(labels[second + 1 :].tolist()) == {1}


def test_losses_are_zero_on_equal_input_and_grow_with_distance():
    mel, wave = torch.randn(2, 40, 32), torch.randn(2, 8000) * 0.1
    assert mel_loss(mel, mel) == 0 and spectral_loss(wave, wave) == 0
    assert mel_loss(mel, mel + 0.2) > mel_loss(mel, mel + 0.1)
    assert spectral_loss(wave * 0.5, wave) > spectral_loss(wave * 0.9, wave)
