"""The in-process engine: one step loop in one thread, shared by all requests in flight. Knows no text.

The loop owns rows and model; callers own nothing but their `NativeRequest`. Between two steps finished and
cancelled candidates leave and waiting ones join. A prompt is prefilled once, without its last id, and its
past is copied to its candidates; the last id is then their first step: the first drawn id is nothing special.
Pasts of recent prompts are kept: another wave of candidates, or a beam that goes on, is not read anew.
"""

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from llasa.core import Generation, Ids, SamplingParams
from llasa.device import chosen_device, chosen_dtype
from llasa.engines.backbone import Backbone, Head, widen_attention
from llasa.engines.base import Step
from llasa.engines.inflight import Group, NativeRequest, Row
from llasa.engines.prefixes import Past
from llasa.engines.sampling import LoopGuard, LoopWatch, check, stream_key
from llasa.errors import BundleError, ConfigError, EngineError, InputError

_log = logging.getLogger(__name__)


@dataclass
class _Prompt:
    """A prompt whose candidates are being admitted: its past, and the next candidate to join."""

    request: NativeRequest
    past: Past = field(default_factory=Past)
    stats: dict[str, float] = field(default_factory=dict[str, float])
    candidate: int = 0


class NativeEngine:
    """Runs a transformers causal LM in this process: an `engines.base.Engine`.

    model: put into evaluation mode and used where it is. Its weights may change while nothing is in flight;
    who trains it puts it into evaluation mode again.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        max_length: int,
        concurrency: int = 64,
        name: str = "native",
        loop_guard: LoopGuard | None = None,
    ) -> None:
        """Start the step loop.

        Args:
            model: causal LM as in transformers, on its device and in its dtype.
            max_length: prompt and generated ids together.
            concurrency: live candidates; more wait for a free slot.
            name: what reports call the engine.
            loop_guard: when a candidate counts as looping; its defaults if None.

        Raises:
            ConfigError: max_length or concurrency is not positive.
        """
        for setting, value in (("max_length", max_length), ("concurrency", concurrency)):
            if value < 1:
                raise ConfigError(f"Starting the native engine: {setting} is {value}. Set it to 1 or more.")
        self.name, self.max_length, self.concurrency = name, max_length, concurrency
        self._guard = loop_guard or LoopGuard()
        self._backbone = Backbone(model)
        self._head = lru_cache(maxsize=8)(self._backbone.head)
        self._waiting: deque[NativeRequest] = deque()
        self._entering: _Prompt | None = None
        self._rows: list[Row] = []
        self._groups: list[Group] | None = None
        self._closed = False
        self._work = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"llasa-{name}", daemon=True)
        self._thread.start()

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        concurrency: int = 64,
    ) -> "NativeEngine":
        """Return an engine over a model folder in Hugging Face layout.

        Args:
            folder: with config.json and safetensors weights; nothing is downloaded and no code in it is run.
            device: the GPU if there is one, else the CPU, if None.
            dtype: bfloat16 where the device has fast arithmetic for it, else float32, if None.
            concurrency: live candidates.

        Raises:
            BundleError: the folder holds no such model, or weights are missing or misshapen.
            ConfigError: no such device here, or no such dtype.
        """
        device = chosen_device(device)
        # Measured on one core: a 6M Llama steps in 2.7 ms in bfloat16 (float32 2.9) alone and 5.5 ms (7.4)
        # with 16 rows, a 135M one in 28 (41) and 45 (100); prefill is 2 to 3 times faster.
        dtype = chosen_dtype(dtype, device)
        _log.info("loading %s on %s in %s", Path(folder).name, device, dtype)
        model = _load_model(Path(folder), dtype)
        model.to(device)  # pyright: ignore[reportArgumentType]
        if device.type == "cpu" and model.dtype == torch.bfloat16:
            widen_attention(model)
        max_length = getattr(model.config, "max_position_embeddings", None)
        if max_length is None:
            raise BundleError(
                f"Loading the language model in {folder}: config.json has no max_position_embeddings. "
                "Add it, or build NativeEngine(model, max_length=...) yourself."
            )
        return cls(model, max_length=max_length, concurrency=concurrency, name=Path(folder).name)

    def submit(self, prompt: Ids, params: SamplingParams) -> NativeRequest:
        """Start `params.n` candidates of one prompt; thread-safe. See `engines.base.Engine.submit`.

        Raises:
            ConfigError: parameters out of range.
            InputError: the prompt is empty, too long, or holds ids outside the vocabulary.
            EngineError: the engine is closed.
        """
        vocab_size = self._backbone.vocab_size
        check(params, vocab_size)
        if not 0 < len(prompt) < self.max_length:
            raise InputError(
                f"Starting a generation: the prompt has {len(prompt)} ids, the model holds "
                f"{self.max_length} with what it generates. Give 1 to {self.max_length - 1} ids."
            )
        if min(prompt) < 0 or max(prompt) >= vocab_size:
            raise InputError(
                f"Starting a generation: the prompt holds ids from {min(prompt)} to {max(prompt)}, the "
                f"model knows [0, {vocab_size}). Use the tokenizer of this model."
            )
        request = NativeRequest(list(prompt), params, self._head(params.allowed_token_ids))
        with self._work:
            if self._closed:
                raise EngineError(f"Starting a generation: engine '{self.name}' is closed. Load it again.")
            self._waiting.append(request)
            self._work.notify()
        return request

    def forget(self) -> None:
        """Drop all that depends on weights, while nothing is in flight.

        Only needed after a change that leaves no trace in the weights' version counters: a write through
        `.data`, an adapter switched on or off.
        """
        self._head.cache_clear()
        self._backbone.forget()

    def close(self) -> None:
        """Stop the step loop; whoever still waits gets an EngineError."""
        with self._work:
            self._closed = True
            self._work.notify()
        self._thread.join()

    @torch.inference_mode()
    def _run(self) -> None:
        while self._has_work():
            try:
                self._admit()
                self._drop_cancelled()
                if self._rows:
                    self._step()
            except Exception as error:  # the thread's edge: whoever waits must hear of any failure
                self._fail(error)
        self._fail(EngineError(f"Generating: engine '{self.name}' was closed. Load it again."))

    def _has_work(self) -> bool:
        """Wait for something to do; False once the engine is closed."""
        with self._work:
            self._work.wait_for(lambda: self._closed or self._waiting or self._entering or self._rows)
            return not self._closed

    def _admit(self) -> None:
        """Let waiting candidates join, in order, while there are free slots."""
        while len(self._rows) < self.concurrency and (prompt := self._next_prompt()):
            request, first = prompt.request, prompt.candidate
            prompt.candidate = min(request.params.n, first + self.concurrency - len(self._rows))
            candidates = range(first, prompt.candidate)
            self._backbone.rows.add(prompt.past, len(request.prompt) - 1, len(candidates))
            self._rows += [self._row(prompt, candidate) for candidate in candidates]
            self._groups = None
            if prompt.candidate == request.params.n:
                self._entering = None

    def _next_prompt(self) -> _Prompt | None:
        while self._entering is None and self._waiting:
            with self._work:
                request = self._waiting.popleft()
            if request.begin():
                began = time.perf_counter()
                # Known before the work starts, so that a failure reaches its request too.
                self._entering = _Prompt(request)
                self._entering.past, reused = self._backbone.prefill(request.prompt[:-1])
                self._entering.stats = {
                    "prefill_s": time.perf_counter() - began,
                    "prefill_tokens": len(request.prompt) - 1 - reused,
                    "reused_tokens": reused,
                }
        return self._entering

    def _row(self, prompt: _Prompt, candidate: int) -> Row:
        request, params = prompt.request, prompt.request.params
        return Row(
            request,
            candidate,
            last=request.prompt[-1],
            limit=min(params.max_tokens, self.max_length - len(request.prompt)),
            key=stream_key(params.seed, params.first + candidate),
            stats=prompt.stats,
            watch=LoopWatch(self._guard) if params.loop_guard else None,
            seen=torch.zeros(request.head.width, dtype=torch.bool, device=self._backbone.device)
            if params.repetition_penalty != 1
            else None,
        )

    def _drop_cancelled(self) -> None:
        steps = {
            number: Step(row.candidate, [], "cancelled")
            for number, row in enumerate(self._rows)
            if row.request.cancelled(row.candidate)
        }
        self._deliver(steps)

    def _step(self) -> None:
        """Feed the last id of every row, draw the next one, and deliver."""
        state = self._backbone.step([row.last for row in self._rows])
        if self._groups is None:
            self._groups = self._grouped()
        steps: dict[int, Step] = {}
        for group in self._groups:
            drawn = group.draw(state if len(self._groups) == 1 else state[group.numbers])
            for number, row, news in zip(group.numbers, group.rows, drawn, strict=True):
                steps[number] = row.take(*news)
        self._deliver(steps)

    def _grouped(self) -> list[Group]:
        shared: dict[Head, list[int]] = {}
        for number, row in enumerate(self._rows):
            shared.setdefault(row.request.head, []).append(number)
        device = self._backbone.device
        return [
            Group(head, numbers, [self._rows[i] for i in numbers], device) for head, numbers in shared.items()
        ]

    def _deliver(self, steps: dict[int, Step]) -> None:
        """Give every request its news, and free the rows that ended."""
        news: dict[NativeRequest, tuple[list[Step], dict[int, Generation]]] = {}
        for number, step in steps.items():
            row = self._rows[number]
            told, ended = news.setdefault(row.request, ([], {}))
            told.append(step)
            if step.finish is not None:
                ended[row.candidate] = row.generation(step.finish)
        self._free([number for number, step in steps.items() if step.finish is not None])
        for request, (told, ended) in news.items():
            request.publish(told, ended)

    def _free(self, numbers: list[int]) -> None:
        for number in sorted(numbers, reverse=True):
            self._backbone.rows.drop(number)
            self._rows[number] = self._rows[-1]
            self._rows.pop()
            self._groups = None
        if numbers and not self._rows:
            self._backbone.reset()

    def _fail(self, error: Exception) -> None:
        """End all requests with an error and start afresh."""
        with self._work:
            requests = {row.request for row in self._rows} | set(self._waiting)
            self._waiting.clear()
        if self._entering is not None:
            requests.add(self._entering.request)
        self._rows, self._groups, self._entering = [], None, None
        self._backbone.reset()
        self._backbone.forget()
        for request in requests:
            request.fail(error)


def _load_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    doing = f"Loading the language model in {folder}"
    if not (folder / "config.json").is_file():
        raise BundleError(f"{doing}: there is no config.json. Name a folder in Hugging Face layout.")
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported below, with what is missing
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise BundleError(
            f"{doing}: {error}. Fetch the folder again, whole and with safetensors weights."
        ) from error
    model, report = loaded
    lost = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
    if lost:
        raise BundleError(
            f"{doing}: {len(lost)} weights are missing or misshapen, first {lost[0]}. Fetch it again."
        )
    return model
