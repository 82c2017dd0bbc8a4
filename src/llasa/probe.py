"""What this machine can do, measured in seconds: how fast a bundle speaks, and what larger Llamas would take.

Must not know: command lines. Shapes: D width.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llasa.bundle import Bundle
from llasa.core import Ids
from llasa.device import chosen_device, chosen_dtype
from llasa.engines.backbone import Backbone, Read
from llasa.engines.base import Request
from llasa.engines.interface import widen_attention
from llasa.search import Job
from llasa.synthesizer import Synthesizer

TEXT = "The rain has stopped, so let us go outside."
ROWS, SPOKEN_ROWS = 193_800, 65_537  # of Llama 3 with Llasa's tokens; codes and end, which are drawn from
CODES_PER_S = 50  # of X-Codec2
LENGTH, PAST = 2048, 512  # ids in a row at most, and while timing
SPEAK_S = 2.0
REPEATS, ENOUGH_S = 7, 0.4  # whichever comes first
CODEC_BYTES = 4 * 629_000_000  # X-Codec2 in float32, all parts


@dataclass(frozen=True)
class Shape:
    """Size of a published language model. tied: input and output embedding are one."""

    name: str
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    tied: bool

    @property
    def layer_weights(self) -> int:
        """Weights of one layer."""
        attention = 2 * self.width * self.head_width * (self.heads + self.kv_heads)
        return attention + 3 * self.width * self.inner

    def bytes(self, dtype: torch.dtype) -> int:
        """Return what it takes in memory: weights, the copied rows of the head, keys and values, a codec."""
        embedding = ROWS * self.width * (1 if self.tied else 2)
        weights = self.layers * self.layer_weights + embedding + SPOKEN_ROWS * self.width
        past = 2 * self.layers * self.kv_heads * self.head_width * LENGTH
        return (weights + past) * dtype.itemsize + CODEC_BYTES


# Llama 3.2 1B and 3B, 3.1 8B: what the published checkpoints were made from.
SHAPES = (
    Shape("1B", 2048, 8192, 16, 32, 8, 64, True),
    Shape("3B", 3072, 8192, 28, 24, 8, 128, True),
    Shape("8B", 4096, 14336, 32, 32, 8, 128, False),
)


@dataclass(frozen=True)
class Spoken:
    """How fast a bundle spoke.

    codes_per_s: of the language model alone. real_time_factor: language model and codec, compute seconds a
    second of sound. first_audio_s: until the first sentence could be heard, None if time ran out before.
    """

    load_s: float
    codes: int
    audio_s: float
    codes_per_s: float
    real_time_factor: float
    first_audio_s: float | None


@dataclass(frozen=True)
class Estimate:
    """What a published shape would take here.

    bytes: memory, with codec and 2048 ids. free: bytes that are free, None if not known. step_s: for one
    code of one candidate, None if it does not fit.
    """

    shape: Shape
    bytes: int
    free: int | None
    step_s: float | None = None

    @property
    def fits(self) -> bool | None:
        """Whether it fits into memory; None if not known."""
        return None if self.free is None else self.bytes <= self.free

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of the language model a second of sound, without the codec's."""
        return None if self.step_s is None else CODES_PER_S * self.step_s


def memory(bundle: Bundle) -> tuple[int, int | None]:
    """Return the bytes of the language model's weights as they are stored, and what `free_memory` gives."""
    weights = (bundle.folder / bundle.manifest.lm.path).glob("model*.safetensors")
    return sum(path.stat().st_size for path in weights), free_memory(chosen_device(bundle.device))


def speak(bundle: Bundle) -> Spoken | None:
    """Speak one sentence over and over for about `SPEAK_S`; None if no code came.

    Loading and a first, short attempt are not part of the figures.

    Raises:
        LlasaError: as `Synthesizer.say`.
    """
    began = time.perf_counter()
    speaker = Synthesizer(bundle)
    speaker.warm_up()
    load_s = time.perf_counter() - began
    _attempt(speaker, seed=0, until=0.0)
    until = time.perf_counter() + SPEAK_S
    attempts = [_attempt(speaker, seed=1, until=until)]
    while time.perf_counter() < until:
        attempts.append(_attempt(speaker, seed=len(attempts) + 1, until=until))
    return _summed(load_s, attempts)


@dataclass(frozen=True)
class _Attempt:
    """codes, and seconds: for drawing them, in all, of the sound. whole: whether it ended by itself."""

    codes: int
    drawing_s: float
    elapsed_s: float
    audio_s: float
    whole: bool


def _attempt(speaker: Synthesizer, seed: int, until: float) -> _Attempt:
    """Say the sentence, or what can be drawn of it before `until` (four codes at least), and decode it."""
    bundle, began = speaker.bundle, time.perf_counter()
    job: Job = speaker.job(TEXT, seed=seed)
    drawing = time.perf_counter()
    ids, whole = _drawn(bundle.engine.submit(job.prompt, job.params), until)
    drawing_s = time.perf_counter() - drawing
    codes, voice = bundle.prompt.codes(ids), job.utterance.voice
    sounds = bundle.codec.decode([codes], voice.codes if voice else None) if codes else []
    elapsed_s = time.perf_counter() - began
    return _Attempt(len(codes), drawing_s, elapsed_s, sum(one.duration_s for one in sounds), whole)


def _drawn(request: Request, until: float) -> tuple[Ids, bool]:
    ids: Ids = []
    for step in request:
        ids = [*ids[: len(ids) - step.rollback], *step.ids]
        if len(ids) >= 4 and time.perf_counter() > until and step.finish is None:
            request.cancel()
            return ids, False
    return ids, True


def _summed(load_s: float, attempts: list[_Attempt]) -> Spoken | None:
    codes, audio_s = sum(one.codes for one in attempts), sum(one.audio_s for one in attempts)
    if not codes:
        return None
    drawing_s, elapsed_s = sum(one.drawing_s for one in attempts), sum(one.elapsed_s for one in attempts)
    firsts = [one.elapsed_s for one in attempts if one.whole and one.codes]
    first_s = statistics.median(firsts) if firsts else None
    return Spoken(load_s, codes, audio_s, codes / drawing_s, elapsed_s / audio_s, first_s)


def estimate(device: str | None = None, dtype: str | None = None) -> list[Estimate]:
    """Return what each published shape would take here, in the dtype that the native engine would choose.

    A model of one layer and the head's rows for codes, all weights alike, runs in the native engine's own
    code, one candidate with `PAST` ids behind it, with its layer and without: the difference, once for each
    layer of the shape, is its step.

    Raises:
        ConfigError: no such device here, or no such dtype.
    """
    place = chosen_device(device)
    kind = chosen_dtype(dtype, place)
    free = free_memory(place)
    return [_estimated(shape, place, kind, free) for shape in SHAPES]


@torch.inference_mode()
def _estimated(shape: Shape, device: torch.device, dtype: torch.dtype, free: int | None) -> Estimate:
    needed = shape.bytes(dtype)
    if free is not None and needed > free:
        return Estimate(shape, needed, free)
    model = _one_layer(shape, device, dtype)
    backbone = Backbone(model, fixed=False)  # the number of layers changes between steps
    past = torch.zeros(1, shape.kv_heads, PAST, shape.head_width, device=device, dtype=dtype)
    backbone.add(Read([(past, past)], None), PAST, 1)
    head = backbone.head(None)

    def step(layers: int) -> torch.Tensor:
        model.config.num_hidden_layers = layers
        return backbone.step([0])

    state = step(1)
    bare_s, one_s, head_s = _timed([lambda: step(0), lambda: step(1), lambda: head(state)], device)
    return Estimate(shape, needed, free, bare_s + head_s + shape.layers * max(one_s - bare_s, 0.0))


def _timed(calls: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Return the median seconds of each call; in turn, so that caches hold for each what they would."""
    until = time.perf_counter() + ENOUGH_S
    rounds = [[_seconds(call, device) for call in calls]]
    while len(rounds) < REPEATS and time.perf_counter() < until:
        rounds.append([_seconds(call, device) for call in calls])
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def _one_layer(shape: Shape, device: torch.device, dtype: torch.dtype) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=SPOKEN_ROWS, hidden_size=shape.width, intermediate_size=shape.inner, num_hidden_layers=1,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_width,
        tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.to(dtype).to_empty(device=device)  # pyright: ignore[reportArgumentType]
    model.tie_weights()
    for weight in chain(model.parameters(), model.buffers()):
        weight.fill_(0.01)
    if device.type == "cpu" and dtype == torch.bfloat16:
        widen_attention(model)
    return model


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that are free on a device, or all it has where no more is told; None if not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    known = Path("/proc/meminfo")
    if known.is_file():
        lines = dict(line.split(":") for line in known.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in names else None
