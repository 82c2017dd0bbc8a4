"""The published shapes in full size, random weights: they speak, and draw the ids that transformers would.

Minutes and gigabytes. 1B runs on a CPU with 12 GB free; 3B and 8B want a GPU.
"""

from pathlib import Path

import pytest
import torch
from transformers import LogitsProcessorList
from transformers.generation import SuppressTokensLogitsProcessor

import llasa
from llasa.core import SamplingParams
from llasa.engines.native import NativeEngine
from llasa.engines.weights import load_model
from tests.published import build_llasa, build_xcodec2

COUNT = 24
SHAPES = [
    pytest.param("1b", marks=pytest.mark.slow),
    pytest.param("3b", marks=pytest.mark.gpu),
    pytest.param("8b", marks=pytest.mark.gpu),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_full_size_model_speaks_and_draws_what_transformers_draws(shape: str, tmp_path: Path) -> None:
    folder = build_llasa(tmp_path / f"Llasa-{shape}", shape)
    build_xcodec2(folder / "codec", full=True)
    speaker = llasa.load(folder)
    assert speaker.bundle.prompt.vocab_size == 193_800
    sound = speaker.say("Hello there.", min_tokens=COUNT, max_tokens=COUNT)
    assert len(sound.samples) == COUNT * 320
    prompt, allowed = speaker.job("Hello there.").prompt, speaker.bundle.prompt.allowed_token_ids
    speaker.bundle.engine.close()
    dtype = torch.float32 if shape == "1b" else torch.bfloat16
    model = load_model(folder, dtype).to("cuda" if torch.cuda.is_available() else "cpu")
    engine = NativeEngine(model, max_length=2048)
    greedy = SamplingParams(temperature=0, allowed_token_ids=allowed[:-1], max_tokens=COUNT, loop_guard=False)
    ids = engine.submit(prompt, greedy).result()[0].ids
    forbidden = sorted(set(range(193_800)) - set(allowed[:-1]))
    expected = model.generate(
        torch.tensor([prompt], device=model.device), do_sample=False, max_new_tokens=COUNT,
        logits_processor=LogitsProcessorList([SuppressTokensLogitsProcessor(forbidden, model.device.type)]),
        eos_token_id=-1, pad_token_id=0,
    )[0, len(prompt) :].tolist()  # fmt: skip
    engine.close()
    same = next((i for i, pair in enumerate(zip(ids, expected, strict=True)) if pair[0] != pair[1]), COUNT)
    assert same == COUNT or _near(model, prompt + ids[:same], ids[same], expected[same], dtype)


@torch.inference_mode()
def _near(model: torch.nn.Module, ids: list[int], one: int, other: int, dtype: torch.dtype) -> bool:
    """Tell whether two ids are so close that rounding decides."""
    logits = model(torch.tensor([ids], device=next(model.parameters()).device)).logits[0, -1].float()
    return abs(logits[one] - logits[other]).item() < (1e-4 if dtype == torch.float32 else 0.1)
