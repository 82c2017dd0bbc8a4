"""Runs a transformers causal LM for many rows, one column a step. Knows no sampling, requests or threads.

Shapes: B live rows, S new ids of each, A allowed ids, V vocabulary, D width, P past ids of a prompt.
"""

from dataclasses import dataclass
from inspect import signature

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from llasa.core import Ids
from llasa.engines.adapters import Adapter, Wardrobe
from llasa.engines.captured import Captured
from llasa.engines.head import Head
from llasa.engines.interface import is_wide, share_attention
from llasa.engines.lean import Lean
from llasa.engines.mtp import Drafts, Guesser, check_trunk
from llasa.engines.prefixes import Past, Prefixes
from llasa.engines.quantized import Int8Linear
from llasa.engines.rows import Rows, put_last
from llasa.errors import BundleError

# Measured, one core, 6M Llama: 163 ids take 12 ms in one pass, in blocks of 128 16, of 64 20, of 32 32 ms.
# On a GPU a pass over 512 ids costs hardly more than one over 64.
_BLOCK, _BLOCK_GPU = 64, 512
_KEPT = 8192  # ids, in bfloat16: 48 MiB for those 6M, 256 MiB for a Llama of 1B, 1 GiB for one of 8B


@dataclass(frozen=True)
class Read:
    """The past of a prompt, and the adapter it was read with."""

    past: Past
    adapter: Adapter | None


class Backbone:
    """A causal LM with its live rows.

    model: any module that transformers would call a causal LM: input_ids, attention_mask, position_ids (if it
        takes them), past_key_values in; `.logits` out.
    vocab_size: V. sliced: whether heads are computed for allowed ids only.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        sharing: bool = True,
        fixed: bool | None = None,
        drafts: Drafts | None = None,
    ) -> None:
        """Take a model.

        Args:
            model: as above.
            sharing: whether candidates of a prompt may hold its past once.
            fixed: whether steps have fixed shapes, and on a GPU are captured; on GPUs if None. Only models
                that can attend to shared pasts can do this, one way or the other.
            drafts: modules whose guesses `leap` verifies; its passes have no fixed shapes.

        Raises:
            BundleError: the model is none that drafts can follow.
        """
        self._model = model
        self.device = next(model.eval().parameters()).device
        self._trunk, self._projection, self.vocab_size = _split(model, self.device)
        self.sliced = self._projection is not None
        self._takes_positions = "position_ids" in signature(self._trunk.forward).parameters
        own_attention = share_attention(model) and self._takes_positions
        if drafts is not None:
            check_trunk(self._trunk, "Starting the engine")
            if not own_attention:
                todo = "Load the model with it, or without drafts"
                raise BundleError(f"Starting the engine: drafts need the attention 'sdpa'. {todo}.")
            fixed = False
        wants_fixed = self.device.type == "cuda" if fixed is None else fixed
        self._sharing = sharing and own_attention and not wants_fixed
        self._dtype = torch.float32 if is_wide(model) else None
        self.rows = Rows(self._dtype, self._sharing, fixed=wants_fixed and own_attention)
        self._captured = (
            Captured(self._pass, self.rows, self.device) if wants_fixed and own_attention else None
        )
        self._leans = own_attention and self.sliced
        self._lean = Lean.of(self._trunk) if self._leans else None
        self._drafts = drafts
        self._guesser = Guesser(drafts, self._trunk) if drafts is not None else None
        self._lapsed = list[bool]()  # of the live rows, whether a step left their drafts without a past
        self._int8 = any(isinstance(layer, Int8Linear) for layer in model.modules())
        self._wardrobe = Wardrobe(model)
        self.adapters: list[Adapter | None] = []  # of the live rows
        self._prefixes = Prefixes(_BLOCK if self.device.type == "cpu" else _BLOCK_GPU, _KEPT)
        self._version: list[tuple[int, int]] | None = None

    def head(self, allowed: tuple[int, ...] | None) -> Head:
        """Return the head over some ids."""
        ids = None if allowed is None else sorted(set(allowed))
        return Head(self._projection, ids, self.vocab_size, self.device, self._int8)

    def prefill(self, ids: Ids, adapter: Adapter | None = None) -> tuple[Read, int]:
        """Return the past of a prompt, and how many of its first ids were known from earlier prompts."""
        self._follow_weights()
        reader = None if adapter is None else adapter.number
        known, length = self._prefixes.find(ids, reader)
        cache = DynamicCache(known or None)
        with self._wardrobe.worn([adapter]):
            for start, end in self._prefixes.blocks(len(ids), length):
                block = torch.tensor([ids[start:end]], device=self.device)
                output = self._trunk(input_ids=block, past_key_values=cache, use_cache=True)
                if self._guesser is not None:
                    self._read(output.last_hidden_state, start, end, cache)
        past: Past = [(layer.keys, layer.values) for layer in cache.layers]  # pyright: ignore
        if past:
            self._prefixes.keep(ids, past, reader)
        return Read(past, adapter), length

    def _read(self, hidden: Tensor, start: int, end: int, cache: DynamicCache) -> None:
        """Let the drafts' pasts in the cache hold a block of a prompt, too."""
        assert self._guesser is not None
        positions = torch.arange(start, end, device=self.device)[None]
        seen = torch.arange(end, device=self.device) <= positions[0, :, None]
        self._guesser(hidden[0], positions, seen[None, None], cache)

    def _follow_weights(self) -> None:
        """Forget what was read with other weights."""
        weights = list(self._model.parameters())
        if self._captured is not None:
            self._captured.follow([weight.data_ptr() for weight in weights])
        # Weights made in inference mode do not count their changes.
        known = not any(weight.is_inference() for weight in weights)
        version = [(weight.data_ptr(), weight._version) for weight in weights] if known else None
        if version is None or version != self._version:
            self.forget()
        self._version = version

    def forget(self) -> None:
        """Release what is kept of earlier prompts, and take the model as it is now."""
        self._prefixes.clear()
        self._lean = Lean.of(self._trunk) if self._leans else None
        if self._drafts is not None:
            self._guesser = Guesser(self._drafts, self._trunk)

    def step(self, ids: Ids) -> Tensor:
        """Feed one id to each live row and return what heads read, [B, D]."""
        self.rows.reserve(0, 0)
        self.rows.settle(self.device)
        captured = self._captured
        if captured is not None and captured.trusted and not any(self.adapters):
            states = captured.step(ids, lambda: self._eagerly(ids))
        else:
            states = self._eagerly(ids)
        self.rows.window.cursor += 1
        self._lapsed = [True] * len(self._lapsed)
        return states

    @property
    def leaps(self) -> bool:
        """Whether `leap` can be called: there are drafts, and no live row has taken a step without them."""
        return self._guesser is not None and not any(self._lapsed)

    def leap(self, ids: list[Ids]) -> Tensor:
        """Feed S ids to each row; return what heads read, of the model and its K drafts [B, S, 1 + K, D].

        `keep` must follow, before anything else.
        """
        assert self._guesser is not None
        ahead = len(ids[0])
        self.rows.reserve(0, 0, ahead)
        self.rows.settle(self.device)
        fed = torch.tensor(ids, device=self.device)
        first = torch.tensor(self.rows.positions(), device=self.device)[:, None]
        positions = first + torch.arange(ahead, device=self.device)
        mask = self.rows.mask(self.device, ahead)
        with self._wardrobe.worn(self.adapters):
            state = self._pass(fed, positions, mask)
        seen = mask if mask is None or mask.ndim == 4 else mask[:, None, None]
        guesses = self._guesser(state, positions, seen, self.rows)
        return torch.stack([state, *guesses], 1).unflatten(0, fed.shape)

    def keep(self, counts: list[int]) -> None:
        """Keep so many of the ids that the last leap fed to each row, from the first on, and no others."""
        self.rows.advance(counts)

    def _eagerly(self, ids: Ids) -> Tensor:
        with self._wardrobe.worn(self.adapters):
            fed = torch.tensor(ids, device=self.device)[:, None]
            positions = torch.tensor(self.rows.positions(), device=self.device)[:, None]
            return self._pass(fed, positions, self.rows.mask(self.device))

    def _pass(self, ids: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """Run the trunk over ids and positions [B, S] and return what heads read, [B * S, D]."""
        if self._lean is not None and not any(self.adapters):
            return self._lean(ids, positions, mask, self.rows)
        inputs = {"position_ids": positions} if self._takes_positions else {}
        output = self._trunk(
            input_ids=ids, **inputs, attention_mask=mask, past_key_values=self.rows, use_cache=True
        )
        return (output.last_hidden_state if self.sliced else output.logits).flatten(0, 1)

    def add(self, past: Read, length: int, count: int) -> None:
        """Append rows; see `loop.Runner.add`."""
        self.rows.add(past.past, length, count)
        self.adapters += [past.adapter] * count
        self._lapsed += [False] * count

    def drop(self, row: int) -> None:
        """Remove a row; the last row takes its number."""
        self.rows.drop(row)
        put_last(self.adapters, row)
        put_last(self._lapsed, row)

    def reset(self) -> None:
        """Forget all rows and release their memory, unless captured steps hold on to it."""
        self.adapters, self._lapsed = [], []
        if self._captured is not None:
            self.rows.clear()
        else:
            self.rows = Rows(self._dtype, self._sharing)

    def close(self) -> None:
        """Leave the model as it was given: whoever gave it keeps it."""
        self._wardrobe.close()


@torch.inference_mode()
def _split(model: nn.Module, device: torch.device) -> tuple[nn.Module, nn.Linear | None, int]:
    """Return trunk, output projection, V; the whole model and None if more follows the projection.

    Some models cap, scale or shift their logits after the projection: only a trial run tells. It takes a few
    ids, since one may be padding, whose logits may be zeros that no cap changes.
    """
    ids = torch.arange(3, device=device)[None]
    logits = model(input_ids=ids).logits
    trunk = getattr(model, "base_model", model)
    projection = getattr(model, "get_output_embeddings", lambda: None)()
    if trunk is not model and isinstance(projection, nn.Linear):
        hidden = getattr(trunk(input_ids=ids), "last_hidden_state", None)
        if hidden is not None and torch.equal(projection(hidden).float(), logits.float()):
            return trunk, projection, logits.shape[-1]
    return model, None, logits.shape[-1]
