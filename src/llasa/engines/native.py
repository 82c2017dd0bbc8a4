"""The in-process engine over transformers models: loading, and the step loop around the backbone."""

import logging
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
from torch import nn

from llasa.device import chosen_device, chosen_dtype
from llasa.engines.adapters import fitted, read_adapter
from llasa.engines.alone import Alone
from llasa.engines.backbone import Backbone
from llasa.engines.interface import widen_attention
from llasa.engines.llama import read_llama
from llasa.engines.loop import StepLoop
from llasa.engines.mtp import Drafts, read_drafts
from llasa.engines.quantized import best_dtype, quantize
from llasa.engines.sampling import LoopGuard
from llasa.engines.verification import Verification
from llasa.engines.weights import load_model
from llasa.errors import BundleError, ConfigError, EngineError
from llasa.weights import DRAFTS

_log = logging.getLogger(__name__)

# fast: all live rows in one pass; on a GPU, where the model allows it, in captured steps of fixed shapes.
# eager: the same, never captured. alone: the slow reference. Each row takes a pass of its own and is drawn by
# itself, so its ids and log-probabilities do not depend, bit for bit, on who else is in flight.
Mode = Literal["fast", "eager", "alone"]

# Weights of a model whose steps end sooner than several threads have agreed on them. Measured, two cores, 6M
# Llama: one thread draws a row 2.3 times as fast as two, eight rows 2.1 times.
_SMALL = 20_000_000


class NativeEngine(StepLoop):
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
        mode: Mode = "fast",
        drafts: Drafts | None = None,
        rule: Verification | None = None,
    ) -> None:
        """Start the step loop.

        Args:
            model: causal LM as in transformers, on its device and in its dtype.
            max_length: prompt and generated ids together.
            concurrency: live candidates; more wait for a free slot.
            name: what reports call the engine.
            loop_guard: when a candidate counts as looping; its defaults if None.
            mode: how steps are taken, see `Mode`.
            drafts: draft modules of the model, where it is and in its dtype; no guessing if None. Which ids a
                seed gives then depends on which steps guessed; see `Verification.rows`.
            rule: how their guesses are verified; exactly if None.

        Raises:
            ConfigError: max_length or concurrency is not positive, or there is no such mode, or it takes no
                drafts.
            BundleError: drafts cannot follow this model.
        """
        if mode not in get_args(Mode):
            known = ", ".join(get_args(Mode))
            raise ConfigError(f"Starting the engine: mode is '{mode}'. Set it to one of: {known}.")
        self._model = model
        self.dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        rule = rule or Verification()
        self.drafts = rule.name if drafts is not None else None
        alone = mode == "alone"
        if alone and drafts is not None:
            raise ConfigError("Starting the engine: mode is 'alone', with drafts. Leave one of them out.")
        backbone = None if alone else Backbone(model, fixed=None if mode == "fast" else False, drafts=drafts)
        runner = backbone or Alone(model)
        super().__init__(
            runner,
            max_length=max_length,
            concurrency=concurrency,
            name=name,
            loop_guard=loop_guard,
            alone=alone,
            threads=1 if sum(weight.numel() for weight in model.parameters()) < _SMALL else None,
            leaper=backbone if drafts is not None else None,
            rule=rule,
        )

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that requests may ask for, sorted."""
        return tuple(sorted(self._adapters))

    def load_adapter(self, name: str, folder: str | PathLike[str]) -> None:
        """Make a LoRA folder known under a name, while others are in flight.

        Raises:
            ConfigError: the name is taken or empty.
            BundleError: the folder is damaged, or does not fit the model.
            EngineError: the engine is closed.
        """
        adapter = fitted(read_adapter(folder), self._model, folder)
        with self._work:
            if self._closed:
                raise EngineError(
                    f"Loading the adapter '{name}': engine '{self.name}' is closed. Load it again."
                )
            if not name or name in self._adapters:
                found = "it is loaded already" if name else "found an empty name"
                raise ConfigError(f"Loading the adapter '{name}': {found}. Give another name, or unload it.")
            self._adapters = {**self._adapters, name: adapter}

    def unload_adapter(self, name: str) -> None:
        """Let no new request have an adapter; those in flight keep it to their end.

        Raises:
            ConfigError: no adapter has this name.
        """
        with self._work:
            if name not in self._adapters:
                known = ", ".join(self.adapters) or "none"
                raise ConfigError(f"Unloading the adapter '{name}': found {known}. Name one of these.")
            self._adapters = {other: kept for other, kept in self._adapters.items() if other != name}

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        concurrency: int = 64,
        adapters: Mapping[str, str | PathLike[str]] = MappingProxyType({}),
        mode: Mode = "fast",
        rule: Verification | None = None,
    ) -> "NativeEngine":
        """Return an engine over a model folder in Hugging Face layout.

        Args:
            folder: with config.json and safetensors weights; nothing is downloaded and no code in it is run.
            device: the GPU if there is one, else the CPU, if None.
            dtype: bfloat16 where the device has fast arithmetic for it, else float32, if None. On CPUs also
                `int8`: linear layers in 8 bits, the rest in bfloat16; not to be trained. `auto`: what draws
                fastest, told by a warning.
            concurrency: live candidates.
            adapters: LoRA folders by the name that requests give.
            mode: how steps are taken, see `Mode`; `alone` chooses float32 if dtype is None.
            rule: how guesses of the draft modules in the folder are verified; they are not used if None.

        Raises:
            BundleError: the folder holds no such model, its weights do not fit it, or an adapter or drafts do
                not.
            ConfigError: no such device here, or no such dtype on it.
        """
        device = chosen_device(device)
        # Measured on one core: a 6M Llama steps in 2.7 ms in bfloat16 (float32 2.9) alone and 5.5 ms (7.4)
        # with 16 rows, a 135M one in 28 (41) and 45 (100); prefill is 2 to 3 times faster.
        if mode == "alone" and dtype is None:
            dtype = torch.float32
        asked = str(dtype) if dtype is not None else None
        dtype = (
            torch.bfloat16 if asked == "int8" else chosen_dtype(None if asked == "auto" else dtype, device)
        )
        # Drafts follow a model of transformers, whose layers they are.
        model: Any = (None if rule else read_llama(Path(folder), dtype)) or load_model(Path(folder), dtype)
        model.to(device)
        size = sum(weight.numel() for weight in model.parameters())
        int8 = asked == "int8" or (asked == "auto" and best_dtype(size, device) == "int8")
        if int8:
            quantize(model)
        runs_in = "int8" if int8 else str(dtype).removeprefix("torch.")
        _log.log(
            logging.WARNING if asked == "auto" else logging.INFO,
            "%s runs on %s in %s",
            Path(folder).name,
            device,
            runs_in,
        )
        if device.type == "cpu" and dtype == torch.bfloat16:
            widen_attention(model)
        max_length = getattr(model.config, "max_position_embeddings", None)
        if max_length is None:
            raise BundleError(
                f"Loading the language model in {folder}: config.json has no max_position_embeddings. "
                "Add it, or build NativeEngine(model, max_length=...) yourself."
            )
        name = Path(folder).name
        engine = cls(
            model, max_length=max_length, concurrency=concurrency, name=name, mode=mode,
            drafts=read_drafts(Path(folder) / DRAFTS, model) if rule else None, rule=rule,
        )  # fmt: skip
        engine.dtype = runs_in
        try:
            for adapter, place in adapters.items():
                engine.load_adapter(adapter, place)
        except BaseException:
            engine.close()
            raise
        return engine
