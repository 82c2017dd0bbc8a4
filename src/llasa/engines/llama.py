"""A Llama to speak with: parameters under the names of transformers' model, computed by `lean`.

Importing transformers' own takes two seconds, longer than all else that a first sentence waits for. Whoever
trains or merges uses transformers' (`weights.load_model`), and so do other architectures.
Must not know: prompts, requests, sampling.

Shapes: B rows, S new ids of each, C columns that they see, D width, V vocabulary, W head width.

Source: transformers `models/llama/modeling_llama.py`, whose numbers these are.
"""

import json
import logging
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers.cache_utils import Cache, DynamicCache
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from llasa.engines.lean import Lean
from llasa.weights import not_finite

_log = logging.getLogger(__name__)

_WHOLE = "model.safetensors"
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)

Count = Annotated[int, Field(ge=1)]


class LlamaConfig(BaseModel):
    """What config.json says of a Llama that `lean` computes in full, under its names."""

    model_config = ConfigDict(strict=True)
    _attn_implementation: str = "sdpa"
    model_type: Literal["llama"]
    hidden_act: Literal["silu"] = "silu"
    quantization_config: None = None
    vocab_size: Count
    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count
    head_dim: Count
    max_position_embeddings: Count
    rms_norm_eps: float
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    rope_parameters: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _derived(cls, given: dict[str, Any]) -> dict[str, Any]:
        known = {key: value for key, value in given.items() if value is not None}
        heads = known["num_attention_heads"]
        rope = known.get("rope_scaling") or known.get("rope_parameters") or {}
        rope = {
            "rope_theta": known.get("rope_theta", 10000.0),
            "rope_type": rope.get("type", "default"),
        } | rope
        derived = {"num_key_value_heads": heads, "head_dim": known["hidden_size"] // heads}
        return derived | known | {"rope_parameters": rope}

    def frequencies(self) -> tuple[Tensor, float]:
        """Return how fast pairs of numbers turn, radians a position [W / 2], and a factor of what is turned.

        Raises:
            KeyError: a kind whose frequencies are not fixed, or one of its parameters is missing.
        """
        rope = self.rope_parameters
        if rope["rope_type"] == "llama3":
            whole: Any = PreTrainedConfig.from_dict(self.model_dump())
            return ROPE_INIT_FUNCTIONS["llama3"](whole)
        if rope["rope_type"] != "default" or "partial_rotary_factor" in rope:
            raise KeyError(rope["rope_type"])
        return rope["rope_theta"] ** -(torch.arange(0, self.head_dim, 2).float() / self.head_dim), 1.0


class Norm(nn.Module):
    """The parameter of a root mean square norm."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(config.hidden_size)), config.rms_norm_eps


class Rotary(nn.Module):
    """Cosines and sines of positions, as transformers' module of that name gives them."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        with torch.device("cpu"):  # parameters may be made elsewhere, and found in a file
            frequencies, self.attention_scaling = config.frequencies()
        self.inv_freq = nn.Buffer(frequencies, persistent=False)

    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return both for positions [B, S], in the dtype of x, [B, S, W]."""
        angles = (positions[..., None].float() * self.inv_freq.float()).repeat(1, 1, 2)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cos.to(x.dtype), sin.to(x.dtype)


class Attention(nn.Module):
    """The parameters of attention."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.head_dim, self.scaling = config.head_dim, config.head_dim**-0.5
        width, bias = config.hidden_size, config.attention_bias
        queries, keys = (
            n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads)
        )
        self.q_proj = nn.Linear(width, queries, bias)
        self.k_proj, self.v_proj = nn.Linear(width, keys, bias), nn.Linear(width, keys, bias)
        self.o_proj = nn.Linear(queries, width, bias)


class Mlp(nn.Module):
    """The parameters of a gated feed-forward network."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        width, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj, self.up_proj = nn.Linear(width, inner, bias), nn.Linear(width, inner, bias)
        self.down_proj = nn.Linear(inner, width, bias)


class DecoderLayer(nn.Module):
    """The parameters of a layer."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(config), Mlp(config)
        self.input_layernorm, self.post_attention_layernorm = Norm(config), Norm(config)


class Read(NamedTuple):
    """What heads read of each id, [B, S, D]."""

    last_hidden_state: Tensor


class Logits(NamedTuple):
    """Of each id, [B, S, V]."""

    logits: Tensor


class Trunk(nn.Module):
    """All but the head."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm, self.rotary_emb = Norm(config), Rotary(config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = True,
    ) -> Read:
        """Return what heads read; linear layers are called as modules, so that hooks of theirs run.

        Args:
            input_ids, position_ids: [B, S]. attention_mask: as `lean.Lean` takes it; without one ids see what
                came before them. past_key_values: what they may see; nothing if None. use_cache: ignored.
        """
        cache = DynamicCache() if past_key_values is None else past_key_values
        if position_ids is None:
            start = cache.get_seq_length()
            ahead = torch.arange(start, start + input_ids.shape[1], device=input_ids.device)
            position_ids = ahead.expand(input_ids.shape)
        if attention_mask is None and input_ids.shape[1] > 1:
            columns = torch.arange(int(position_ids[0, -1]) + 1, device=input_ids.device)
            attention_mask = (columns <= position_ids[0, :, None])[None, None]
        states = Lean(self, called=True)(input_ids, position_ids, attention_mask, cache)
        return Read(states.view(*input_ids.shape, -1))


class Llama(nn.Module):
    """A causal LM, as far as the engine asks for one of transformers."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config, self.model = config, Trunk(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def base_model(self) -> Trunk:
        """All but the head."""
        return self.model

    def get_output_embeddings(self) -> nn.Linear:
        """Return the head."""
        return self.lm_head

    def forward(self, input_ids: Tensor) -> Logits:
        """Return the logits of ids [B, S] that nothing comes before."""
        return Logits(self.lm_head(self.model(input_ids).last_hidden_state))


class _Unfilled(TorchFunctionMode):
    """Leaves parameters without first values; on the meta device these import a compiler, for a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        fills = getattr(func, "__module__", None) == "torch.nn.init"
        return next(iter([*args, *(kwargs or {}).values()])) if fills else func(*args, **(kwargs or {}))


def read_llama(folder: Path, dtype: torch.dtype) -> Llama | None:
    """Return the Llama in a folder of Hugging Face layout, on the CPU.

    None unless it is one that is computed here and all of it fits: `weights.load_model` loads other models,
    and says what is wrong with a damaged one.
    """
    if (folder / "adapter_config.json").exists():
        return None
    try:
        config = LlamaConfig.model_validate(json.loads((folder / "config.json").read_text("utf-8")))
        with torch.device("meta"), _Unfilled():
            model = Llama(config)
        fits = _fill(model, _weights(folder), dtype)
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
        SafetensorError,
    ) as error:
        _log.info("%s is left to transformers: %s", folder.name, error)
        return None
    if not fits or not_finite(model):
        _log.info("%s is left to transformers: its weights are not plainly those of its config", folder.name)
        return None
    return model.eval()


def _weights(folder: Path) -> dict[str, Tensor]:
    if (folder / _WHOLE).is_file():
        return load_file(folder / _WHOLE)
    names = set(json.loads((folder / f"{_WHOLE}.index.json").read_text("utf-8"))["weight_map"].values())
    parts = [load_file(folder / Path(name).name) for name in sorted(names)]
    return {name: weight for part in parts for name, weight in part.items()}


def _fill(model: Llama, weights: dict[str, Tensor], dtype: torch.dtype) -> bool:
    """Give a model its weights, and tell whether they are the ones that it has."""
    expected = {name: weight.shape for name, weight in model.state_dict().items()}
    tied, embedding = model.config.tie_word_embeddings, weights["model.embed_tokens.weight"]
    if tied and not torch.equal(weights.setdefault("lm_head.weight", embedding), embedding):
        return False  # transformers ties nothing that differs
    if {name: weight.shape for name, weight in weights.items()} != expected:
        return False
    if any(weight.dtype not in _FLOATS for weight in weights.values()):
        return False
    # One after another, so that a large model is not held twice.
    for name in expected:
        of = "model.embed_tokens.weight" if tied and name == "lm_head.weight" else name
        weights[name] = weights[of].to(dtype)
    model.load_state_dict(weights, assign=True)
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    return True
