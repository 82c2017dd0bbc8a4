"""llama.cpp in this process: the step loop around its low-level interface, for CPUs and small devices.

Only the model runs there. Ids are drawn by the sampler that all in-process engines share, so that seeds,
limits and log-probabilities mean the same. Must not know text: the file's own tokenizer is never asked.

Shapes: B live rows, V vocabulary.
"""

import logging
import os
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from ctypes import c_void_p
from functools import cache
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from llasa.core import Ids
from llasa.engines.head import Head
from llasa.engines.loop import StepLoop
from llasa.errors import BundleError, ConfigError, EngineError, LlasaError, MissingExtra

_log = logging.getLogger(__name__)
_LONGEST = 2048  # what the published checkpoints were trained for
_BLOCK = 512  # ids of a prompt read in one pass
_KEPT = 16  # prompts kept, at most
_ROOM_KEPT = 2  # whole rows' worth of cells for them: the one being read, and the one it goes on from
_ERROR = 4  # llama.cpp's level of a message


class GgufEngine(StepLoop):
    """Runs a GGUF file through llama.cpp: an `engines.base.Engine`."""

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        max_length: int | None = None,
        concurrency: int = 8,
        threads: int | None = None,
        kv: Literal["f16", "f32"] = "f16",
        names: Mapping[int, str] | None = None,
    ) -> "GgufEngine":
        """Return an engine over a GGUF file.

        Besides the file it takes room for (concurrency + 2) * max_length ids: in f16, 32 KiB an id for a
        Llama of 1B (640 MiB with the defaults) and 128 KiB for one of 8B.

        Args:
            path: the file; nothing is downloaded.
            max_length: prompt and generated ids together; what the file says, at most 2048, if None.
            concurrency: live candidates; more wait for a free slot.
            threads: as many as torch uses, which are the physical cores unless told otherwise, if None.
            kv: number type of the past; f32 for comparisons.
            names: what the tokenizer calls some ids, by which a file of another model is told.

        Raises:
            BundleError: there is no such file, it is damaged, it holds no decoder that keeps a past, or has
                other names.
            ConfigError: an argument is out of range.
            MissingExtra: `llama_cpp` is not installed.
            EngineError: there is no memory for the past.
        """
        path, doing = Path(path), f"Loading {path}"
        llama = llama_library(doing)
        model = _load_model(llama, path)
        try:
            _check_names(llama, model, names or MappingProxyType({}), doing)
            trained = llama.llama_model_n_ctx_train(model)
            length = min(trained, _LONGEST) if max_length is None else max_length
            threads = torch.get_num_threads() if threads is None else threads
            rows = llama.llama_max_parallel_sequences() - _KEPT
            for setting, value, most in (
                ("max_length", length, trained),
                ("concurrency", concurrency, rows),
                ("threads", threads, 512),
            ):
                if not 1 <= value <= most:
                    raise ConfigError(f"{doing}: {setting} is {value}. Set it to 1 to {most}.")
            if kv not in ("f16", "f32"):
                raise ConfigError(f"{doing}: kv is '{kv}'. Set it to f16 or f32.")
            runner = _Sequences(llama, model, length, concurrency, threads, kv, doing)
        except LlasaError:
            llama.llama_model_free(model)
            raise
        _log.info("loaded %s for %d rows of %d ids, %d threads", path.name, concurrency, length, threads)
        return cls(runner, max_length=length, concurrency=concurrency, name=path.stem)


class _Sequences:
    """A model with its live rows, each a sequence of llama.cpp's: a `loop.Runner`.

    Sequences may share the cells that hold their pasts: candidates hold their prompt's once. Cells are enough
    for `concurrency` rows that share nothing, and for the prompts kept.
    """

    def __init__(
        self, llama: Any, model: Any, max_length: int, concurrency: int, threads: int, kv: str, doing: str
    ) -> None:
        self._llama, self._model = llama, model
        self.device = torch.device("cpu")
        self.vocab_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        self._limit = _ROOM_KEPT * max_length
        cells = concurrency * max_length + self._limit
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = cells, concurrency + _KEPT, True
        params.n_batch = params.n_ubatch = max(_BLOCK, concurrency)
        params.n_outputs_max = params.n_seq_max  # else it makes room for the logits of a whole block
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = getattr(llama, f"GGML_TYPE_{kv.upper()}")
        if not llama.llama_supports_gpu_offload():
            # Measured on one core: a fifth slower where rows share little, and 1000 times less exact in f32.
            params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.pooling_type, params.embeddings = llama.LLAMA_POOLING_TYPE_NONE, False
        self._context = llama.llama_init_from_model(model, params)
        if not self._context:
            raise EngineError(
                f"{doing}: llama.cpp made no room for {cells} ids ({llama_errors()}). "
                "Lower max_length or concurrency."
            )
        self._memory = llama.llama_get_memory(self._context)
        self._batch = llama.llama_batch_init(params.n_batch, 0, 1)
        self._all = range(concurrency), range(concurrency, concurrency + _KEPT)
        self._rows: list[int] = []
        self._lengths: list[int] = []
        self._free = list(self._all[0])
        self._kept: OrderedDict[int, Ids] = OrderedDict()

    def head(self, allowed: tuple[int, ...] | None) -> Head:
        """Return the head over some ids; llama.cpp computes all."""
        return Head(None, None if allowed is None else sorted(set(allowed)), self.vocab_size, self.device)

    def prefill(self, ids: Ids, adapter: None = None) -> tuple[int | None, int]:
        """Return the sequence that begins with ids, and how many of the first were known."""
        sequence, known = self._closest(ids)
        if known < len(ids):
            sequence = self._sequence_for(ids, sequence, known)
            for start in range(known, len(ids), _BLOCK):
                block = ids[start : start + _BLOCK]
                self._decode(zip(block, range(start, len(ids)), [sequence] * len(block), strict=False), 0)
            self._kept[sequence] = list(ids)
        return sequence, known

    def _closest(self, ids: Ids) -> tuple[int | None, int]:
        """Return the kept sequence that shares the longest beginning with ids, and its length."""
        shared = {sequence: _shared(kept, ids) for sequence, kept in self._kept.items()}
        sequence = max(shared, key=shared.__getitem__, default=None)
        if sequence is None or not shared[sequence]:
            return None, 0
        self._kept.move_to_end(sequence)
        return sequence, shared[sequence]

    def _sequence_for(self, ids: Ids, source: int | None, known: int) -> int:
        """Return a sequence that holds the first `known` ids, and make room for the rest.

        A prompt that goes on where a kept one ends takes its place: it serves for both.
        """
        goes_on = source is not None and known == len(self._kept[source])
        # The source was touched last, so it stays.
        if len(self._kept) == _KEPT and not goes_on:
            self._forget_oldest()
        while sum(map(len, self._kept.values())) + len(ids) > self._limit:
            self._forget_oldest()
        if source is not None and goes_on:
            return source
        target = next(sequence for sequence in self._all[1] if sequence not in self._kept)
        if source is not None:
            self._llama.llama_memory_seq_cp(self._memory, source, target, 0, known)
        return target

    def _forget_oldest(self) -> None:
        self._remove(self._kept.popitem(last=False)[0])

    def add(self, past: int | None, length: int, count: int) -> None:
        """Append rows; see `loop.Runner.add`."""
        for _ in range(count):
            row = self._free.pop()
            if past is not None:
                self._llama.llama_memory_seq_cp(self._memory, past, row, 0, length)
            self._rows.append(row)
            self._lengths.append(length)

    def drop(self, row: int) -> None:
        """Remove a row; the last row takes its number."""
        self._remove(self._rows[row])
        self._free.append(self._rows[row])
        for column in (self._rows, self._lengths):
            column[row] = column[-1]
            column.pop()

    def step(self, ids: Ids) -> Tensor:
        """Feed one id to each row and return all logits, float32 [B, V], which the next step overwrites."""
        self._decode(zip(ids, self._lengths, self._rows, strict=True), 1)
        self._lengths = [length + 1 for length in self._lengths]
        logits = self._llama.llama_get_logits(self._context)
        return torch.from_numpy(np.ctypeslib.as_array(logits, (len(ids), self.vocab_size)))

    def reset(self) -> None:
        """Remove all rows, and what a failed step left of them."""
        for sequence in self._all[0]:
            self._remove(sequence)
        self._rows, self._lengths, self._free = [], [], list(self._all[0])

    def forget(self) -> None:
        """Release what is kept of earlier prompts."""
        for sequence in self._all[1]:
            self._remove(sequence)
        self._kept.clear()

    def close(self) -> None:
        """Release the model."""
        self._llama.llama_batch_free(self._batch)
        self._llama.llama_free(self._context)
        self._llama.llama_model_free(self._model)

    def _remove(self, sequence: int) -> None:
        self._llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def _decode(self, tokens: Iterable[tuple[int, int, int]], wanted: int) -> None:
        """Run ids, each with its position and sequence; wanted: whether their logits are, 1 or 0."""
        batch, count = self._batch, 0
        for count, (token_id, position, sequence) in enumerate(tokens, 1):
            i = count - 1
            batch.token[i], batch.pos[i], batch.logits[i] = token_id, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        batch.n_tokens = count
        if code := self._llama.llama_decode(self._context, batch):
            raise EngineError(
                f"Generating: llama.cpp could not run {count} ids: code {code} ({llama_errors()}). "
                "Try again, or load the file with a lower concurrency.",
                retryable=code == 1,  # it found no room
            )


def llama_library(doing: str) -> Any:
    """Return the `llama_cpp` module, silent but for errors, which go to our log.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import llama_cpp  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtra(doing, "llama_cpp", "gguf") from error
    llama_cpp.llama_log_set(_listener().callback, c_void_p())
    llama_cpp.llama_backend_init()
    return llama_cpp


def llama_errors() -> str:
    """Return what llama.cpp last called an error, and forget it."""
    errors = _listener().errors
    found = "; ".join(errors) or "it gives no reason"
    errors.clear()
    return found


class _Listener:
    """Hears what llama.cpp says; `errors` are the last ones."""

    def __init__(self) -> None:
        from llama_cpp import llama_log_callback  # pyright: ignore[reportMissingImports]

        self.errors: deque[str] = deque(maxlen=4)
        self.callback = llama_log_callback(self._hear)

    def _hear(self, level: int, text: bytes, _: object) -> None:
        if level == _ERROR:
            self.errors.append(text.decode("utf-8", "replace").strip())
            _log.info("llama.cpp: %s", self.errors[-1])  # whoever fails by it quotes it


@cache
def _listener() -> _Listener:
    # One for the process, as llama.cpp has one log, and never freed, as it may speak at any time.
    return _Listener()


def _load_model(llama: Any, path: Path) -> Any:
    doing, todo = f"Loading {path}", "Fetch or export the file again, whole"
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise BundleError(f"{doing}: the system says: {error.strerror}. Name a GGUF file.") from error
    if magic != b"GGUF":
        raise BundleError(f"{doing}: it is no GGUF file. Name one, or make one with `llasa export gguf`.")
    model = llama.llama_model_load_from_file(os.fsencode(path), llama.llama_model_default_params())
    if not model:
        raise BundleError(f"{doing}: llama.cpp refuses it ({llama_errors()}). {todo}.")
    others = ("has_encoder", "is_recurrent", "is_hybrid", "is_diffusion")
    found = [kind for kind in others if getattr(llama, f"llama_model_{kind}")(model)]
    if found:
        llama.llama_model_free(model)
        raise BundleError(
            f"{doing}: its model {found[0].replace('_', ' ')}. Use a plain decoder, as Llama is."
        )
    return model


def _check_names(llama: Any, model: Any, names: Mapping[int, str], doing: str) -> None:
    vocabulary = llama.llama_model_get_vocab(model)
    size = llama.llama_vocab_n_tokens(vocabulary)
    for token_id, expected in names.items():
        # llama.cpp would abort the process for an id that it has not.
        known = 0 <= token_id < size
        found = llama.llama_vocab_get_text(vocabulary, token_id).decode("utf-8", "replace") if known else None
        if found != expected:
            what = f"'{found[:80]}'" if found is not None else f"a vocabulary of {size} ids"
            raise BundleError(
                f"{doing}: expected '{expected}' as id {token_id}, found {what}. Use a file made of this "
                "bundle: llasa export gguf"
            )


def _shared(first: Ids, second: Ids) -> int:
    """Return how many ids two prompts begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
