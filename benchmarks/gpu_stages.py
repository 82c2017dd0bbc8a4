"""What `gpu.py` runs beside decoding: random codec and recogniser, searches, and a step of GRPO."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from drawn import PROMPT, fixed, prompt_of, speech
from transformers import Wav2Vec2BertConfig, WhisperConfig, WhisperModel, Xcodec2Config, Xcodec2Model

from llasa.beams import BeamSearch
from llasa.codec.xcodec2 import Xcodec2Codec
from llasa.core import Candidate, Generation, Ids, SamplingParams, Score, Utterance
from llasa.engines.base import Request, Step
from llasa.engines.native import NativeEngine
from llasa.judge import Judge
from llasa.prompt import IGNORED
from llasa.search import BestOfN, Job, Means, Ranking
from llasa.train.logprobs import share_prompts
from llasa.train.policy import speech_only

CODES_PER_S = 50
FORCED = 40  # ids of text that are scored by a forward pass
EACH, AT_ONCE = 8, 16
HOP, WINDOW = 160, 400  # samples at 16 kHz


def codec_flops(tiny: bool) -> float:
    """Return the operations that X-Codec2's decoder takes for a second of sound."""
    return 1e8 if tiny else 18.7e9


def listener_flops(tiny: bool) -> float:
    """Return the operations of Whisper large-v3's encoder for a clip."""
    return 1e8 if tiny else 2.26e12


class Listener:
    """A Whisper-turbo of random weights: its encoder over 30 s, and a forward pass of its decoder."""

    name, partial, cost = "listener", True, 3

    def __init__(self, device: torch.device, dtype: torch.dtype, tiny: bool) -> None:
        size: dict[str, Any] = {
            "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "max_source_positions": 50,
        } if tiny else {
            "d_model": 1280, "encoder_layers": 32, "decoder_layers": 4, "encoder_attention_heads": 20,
            "decoder_attention_heads": 20, "encoder_ffn_dim": 5120, "decoder_ffn_dim": 5120,
        }  # fmt: skip
        config: Any = WhisperConfig(num_mel_bins=128, vocab_size=51_866, **size)
        self.length = 2 * HOP * config.max_source_positions  # 30 s, unless tiny
        with torch.device(device):
            self.model = WhisperModel._from_config(config, dtype=dtype).eval()
            self.mel = torch.rand(128, WINDOW // 2 + 1)
            self.text = torch.zeros(1, FORCED, dtype=torch.long)
            self.window = torch.hann_window(WINDOW)

    @torch.inference_mode()
    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        """Return what a forward pass makes of each, all in one batch."""
        waves = torch.zeros(len(candidates), self.length)
        for row, one in zip(waves, candidates, strict=True):
            assert one.audio is not None
            samples = torch.from_numpy(one.audio.samples)[: len(row)]
            row[: len(samples)] = samples
        found = torch.stft(
            waves.to(self.window.device), WINDOW, HOP, window=self.window, return_complex=True
        )[..., :-1].abs()
        features = (self.mel @ found.square()).clamp(min=1e-10).log10().to(self.model.dtype)
        text = self.text.expand(len(candidates), -1)
        states = self.model(input_features=features, decoder_input_ids=text).last_hidden_state
        values = states.float().mean((1, 2)).sigmoid().nan_to_num().tolist()
        return [Score(value) for value in values]


@dataclass(frozen=True)
class Workload:
    """Codec and judge, and how many prompts a step of GRPO has."""

    codec: Xcodec2Codec
    judge: Judge
    groups: int

    @classmethod
    def of(cls, device: torch.device, dtype: torch.dtype, tiny: bool) -> "Workload":
        """Return them with random weights."""
        small: dict[str, Any] = {
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 4, "head_dim": 16, "encoder_hidden_size": 4, "quantization_dim": 96,
            "semantic_model_config": Wav2Vec2BertConfig(
                hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
                output_hidden_size=32,
            ),
        }  # fmt: skip
        with torch.device(device):
            model = Xcodec2Model(Xcodec2Config(**(small if tiny else {})))
        codec = Xcodec2Codec(model.to(device), "xcodec2@random")
        return cls(codec, Judge(codec, Listener(device, dtype, tiny)), 2 if tiny else 16)


@dataclass
class Ended:
    """An engine whose candidates are taken to have ended by themselves: random weights never do."""

    inner: NativeEngine

    def __post_init__(self) -> None:
        self.name, self.max_length = self.inner.name, self.inner.max_length
        self.concurrency = self.inner.concurrency

    def submit(self, prompt: Ids, params: SamplingParams) -> Request:
        """See `Engine.submit`."""
        return _EndedRequest(self.inner.submit(prompt, params))


class _EndedRequest:
    def __init__(self, inner: Request) -> None:
        self.inner = inner

    def __iter__(self) -> Iterator[Step]:
        return iter(self.inner)

    def cancel(self, candidate: int | None = None) -> None:
        self.inner.cancel(candidate)

    def result(self) -> list[Generation]:
        return [replace(one, finish="stop") for one in self.inner.result()]


def check_s(codes: int) -> float:
    """Return the seconds of speech between two looks at beams: one, or a fifth of a short utterance."""
    return min(1.0, codes / CODES_PER_S / 5)


def searched(work: Workload, engine: NativeEngine, shape: str, codes: int, name: str) -> dict[str, float]:
    """Return the seconds of a search of one utterance, by stage; the second of two, so that all is warm."""
    job = Job(Utterance("one", "random"), prompt_of(shape, 0), fixed(shape, codes))
    first = speech(shape)[0]
    size = min(work.codec.codebook_size, len(speech(shape)) - 1)
    best_of = name.startswith("best")
    means = Means(
        Ended(engine) if best_of else engine, work.judge,
        lambda ids: [(token_id - first) % size for token_id in ids], CODES_PER_S,
    )  # fmt: skip
    search = BestOfN(16) if best_of else BeamSearch(5, 1, check_s(codes), process=work.judge)
    ranking = None
    for _ in range(2):
        for news in search.run(job, means):
            ranking = news if isinstance(news, Ranking) else None
    assert ranking is not None and ranking.judged
    return {"draw": ranking.generate_s, "codec and listening": ranking.judge_s}


def grpo_step(work: Workload, model: Any, shape: str, codes: int) -> tuple[dict[str, float], int, int]:
    """Return the seconds of a step by stage, how many ids it was trained on, and how many weights."""
    speech_only(model, speech(shape))
    share_prompts(model, 0.8)
    engine = NativeEngine(model, max_length=2048, concurrency=work.groups * EACH)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-6, fused=model.device.type == "cuda")
    try:
        for _ in range(2):  # the second time all is warm
            marks = [time.perf_counter()]
            rolled = _rolled(engine, shape, codes, work.groups)
            marks.append(time.perf_counter())
            rewards = _rewards(work, [ids for _, ids in rolled], shape)
            marks.append(time.perf_counter())
            _trained(model, optimizer, rolled, rewards)
            marks.append(time.perf_counter())
    finally:
        engine.close()
    roll_s, reward_s, train_s = np.diff(marks).tolist()
    ids = sum(len(row) for _, row in rolled) + work.groups * PROMPT
    took = {"rollouts": roll_s, "rewards, not overlapped": reward_s, "training": train_s}
    return took, ids, sum(p.numel() for p in model.parameters())


def _rolled(engine: NativeEngine, shape: str, codes: int, groups: int) -> list[tuple[Ids, Ids]]:
    """Return prompts and codes of all groups; lengths differ from group to group, `codes` in the mean."""
    lengths = np.linspace(codes / 4, 7 * codes / 4, groups).round().astype(int).tolist()
    prompts = [prompt_of(shape, group) for group in range(groups)]
    requests = [
        engine.submit(prompt, fixed(shape, max(2, length), EACH))
        for prompt, length in zip(prompts, lengths, strict=True)
    ]
    return [
        (prompt, made.ids)
        for prompt, request in zip(prompts, requests, strict=True)
        for made in request.result()
    ]


def _rewards(work: Workload, rows: Sequence[Ids], shape: str) -> list[float]:
    first, size, values = speech(shape)[0], work.codec.codebook_size, list[float]()
    for start in range(0, len(rows), AT_ONCE):
        said = [
            Candidate(Utterance("one", "random"), [(k - first) % size for k in row], "stop")
            for row in rows[start : start + AT_ONCE]
        ]
        values += [one.score.value for one in work.judge.judge(said) if one.score]
    assert len(values) == len(rows)
    return values


def _trained(model: Any, optimizer: Any, rolled: Sequence[tuple[Ids, Ids]], rewards: list[float]) -> None:
    """Take a step: advantages within groups, log-probabilities of all codes, backward, update."""
    values = torch.tensor(rewards, device=model.device).view(-1, EACH)
    advantages = (values - values.mean(1, keepdim=True)).flatten()
    model.train()
    optimizer.zero_grad()
    for start in range(0, len(rolled), AT_ONCE):
        part = rolled[start : start + AT_ONCE]
        width = PROMPT + max(len(ids) for _, ids in part)
        ids = torch.zeros(len(part), width, dtype=torch.long)
        seen, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
        for row, (prompt, codes) in enumerate(part):
            whole = torch.tensor([*prompt, *codes])
            ids[row, : len(whole)], seen[row, : len(whole)] = whole, 1
            labels[row, PROMPT : len(whole)] = whole[PROMPT:]
        inputs = {"input_ids": ids, "attention_mask": seen, "labels": labels}
        on_device = {name: tensor.to(model.device) for name, tensor in inputs.items()}
        output = model(**on_device, fused_lm_head=True)
        weights = advantages[start : start + AT_ONCE, None].to(output.log_probs.dtype)
        (-(output.log_probs * weights).sum() / len(rolled)).backward()
    optimizer.step()
    model.eval()
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
