"""How fast a language model draws on a CPU, in each precision and for each number of candidates.

A model of a given shape, with random weights, feeds N rows one id a step and computes logits of the speech
ids. Contenders take turns within a run, so that whatever else the machine does falls on all alike; ratios are
medians over turns. `difference` is the norm of what changes in the logits against that of float32's.

float32, bfloat16, int8: what `NativeEngine.load(dtype=...)` offers.
dynamic: torch's own 8-bit layers (fbgemm); one scale for all rows of a batch, so rows affect each other.
int8pack, int4: torch's kernels for 8-bit and 4-bit weights (groups of 32) with bfloat16 inputs.
"""

import argparse
import copy
import json
import platform
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from llasa.engines.backbone import Backbone
from llasa.engines.interface import widen_attention
from llasa.engines.quantized import Int8Linear, quantize

SPEECH = 65_537  # codes and the end marker, the last ids of the vocabulary
PROMPT = 64
SHAPES = {
    "starter": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6,
                "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 4160},
    "135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
             "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49_152 + 65_544},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 193_800},
}  # fmt: skip


class Int8Pack(nn.Module):
    """8-bit weights with one scale an output, bfloat16 inputs."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        scale = weight.float().abs().amax(1) / 127
        self.levels = (weight.float() / scale[:, None]).round().to(torch.int8)
        self.scale = scale.bfloat16()

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.reshape(-1, inputs.shape[-1])
        return torch._weight_int8pack_mm(rows, self.levels, self.scale).view(*inputs.shape[:-1], -1)


class Int4(nn.Module):
    """4-bit weights, a scale and a zero for each 32 of a row, bfloat16 inputs."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.rows = weight.shape[0]
        # The kernel takes rows by 16.
        groups = nn.functional.pad(weight.float(), (0, 0, 0, -self.rows % 16)).unflatten(1, (-1, 32))
        low, high = groups.aminmax(dim=2)
        scale = ((high - low) / 15).clamp(min=1e-8)
        levels = (
            ((groups - low[..., None]) / scale[..., None]).round().clamp(0, 15).to(torch.int32).flatten(1)
        )
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)
        self.scales = torch.stack([scale, low + 8 * scale], -1).transpose(0, 1).contiguous().bfloat16()

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.reshape(-1, inputs.shape[-1])
        outputs = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.packed, 32, self.scales)
        return outputs[:, : self.rows].view(*inputs.shape[:-1], -1)


class Dynamic(nn.Module):
    """torch's dynamically quantised layer, fed float32."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        plain = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        plain.weight.data = weight.float()
        with warnings.catch_warnings(action="ignore"):
            self.layer = torch.ao.quantization.quantize_dynamic(
                nn.Sequential(plain), {nn.Linear}, torch.qint8
            )

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs.float()).to(inputs.dtype)


LAYERS: dict[str, Callable[[Tensor, Tensor | None], nn.Module]] = {
    "int8": Int8Linear, "dynamic": Dynamic, "int8pack": Int8Pack, "int4": Int4,
}  # fmt: skip


@dataclass
class Contender:
    """A model in one precision, with a head over the speech ids."""

    backbone: Backbone
    head: Callable[[Tensor], Tensor]
    megabytes: float

    def logits(self, ids: list[int]) -> Tensor:
        return self.head(self.backbone.step(ids)).float()

    def start(self, rows: int) -> None:
        past, _ = self.backbone.prefill(list(range(PROMPT)))
        self.backbone.reset()
        self.backbone.add(past, PROMPT, rows)

    def seconds(self, rows: int, steps: int) -> float:
        """Return the least seconds of a step."""
        self.start(rows)
        taken = []
        for k in range(steps + 2):
            began = time.perf_counter()
            self.logits([k] * rows)
            taken.append(time.perf_counter() - began)
        return min(taken[2:])


def base(shape: str) -> LlamaForCausalLM:
    """Return the model in bfloat16, with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[shape], tie_word_embeddings=True, max_position_embeddings=2048)
    config.dtype = torch.bfloat16
    model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).eval()
    widen_attention(model)
    return model


@torch.inference_mode()
def contender(model: LlamaForCausalLM, dtype: str) -> Contender:
    """Return the model in a precision; embeddings in bfloat16 are shared."""
    embedding = model.get_input_embeddings().weight
    shared: dict[int, Any] = {} if dtype == "float32" else {id(embedding): embedding}
    own: Any = model if dtype == "bfloat16" else copy.deepcopy(model, shared)
    if dtype == "float32":
        own = own.float()
        own.set_attn_implementation("sdpa")
    rows = own.lm_head.weight[-min(SPEECH, model.config.vocab_size) :]
    if dtype == "int8":
        quantize(own)
    elif dtype in LAYERS:
        swap(own, LAYERS[dtype])
    head = LAYERS[dtype](rows, None) if dtype in LAYERS else partial_linear(rows.clone())
    return Contender(Backbone(own), head, megabytes(own, dtype) + rows.numel() * width(dtype) / 2**20)


def partial_linear(weight: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda state: nn.functional.linear(state, weight)


def swap(model: nn.Module, layer: Callable[[Tensor, Tensor | None], nn.Module]) -> None:
    """Put other layers in place of the linear ones of the trunk."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and name != "lm_head":
                setattr(module, name, layer(child.weight, None))


def width(dtype: str) -> float:
    """Return the bytes of a weight, scales left out."""
    return {"float32": 4, "bfloat16": 2, "int4": 0.625}.get(dtype, 1)


def megabytes(model: nn.Module, dtype: str) -> float:
    """Return what embedding and layers take."""
    config: Any = model.config
    embedding = config.vocab_size * config.hidden_size
    kv = config.num_key_value_heads / config.num_attention_heads
    layer = config.hidden_size**2 * (2 + 2 * kv) + 3 * config.hidden_size * config.intermediate_size
    wide = 4 if dtype == "float32" else 2
    return (embedding * wide + config.num_hidden_layers * layer * width(dtype)) / 2**20


@torch.inference_mode()
def measure(shape: str, dtypes: list[str], counts: list[int], turns: int, steps: int) -> list[dict[str, Any]]:
    """Return a row for each precision and number of candidates."""
    model = base(shape)
    contenders = {dtype: contender(model, dtype) for dtype in dtypes}
    differences = {}
    for dtype, one in contenders.items():
        one.start(1)
        differences[dtype] = one.logits([7])
    rows = []
    for n in counts:
        taken: dict[str, list[float]] = {dtype: [] for dtype in dtypes}
        for turn in range(turns):
            for dtype in sorted(dtypes, reverse=bool(turn % 2)):
                taken[dtype].append(contenders[dtype].seconds(n, steps))
        for dtype in dtypes:
            row = {"shape": shape, "dtype": dtype, "n": n, "megabytes": round(contenders[dtype].megabytes)}
            row["ids_per_s"] = n / statistics.median(taken[dtype])
            if "bfloat16" in taken:
                row["times_bfloat16"] = statistics.median(
                    b / a for a, b in zip(taken[dtype], taken["bfloat16"], strict=True)
                )
            if (wide := differences.get("float32")) is not None:
                row["difference"] = ((differences[dtype] - wide).norm() / wide.norm()).item()
            rows.append(row)
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["135m"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16", *LAYERS])
    parser.add_argument("--n", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = [
        row for shape in args.shapes for row in measure(shape, args.dtypes, args.n, args.turns, args.steps)
    ]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    machine = platform.processor() or platform.machine()
    if args.json:
        return print(json.dumps({"rows": rows, "peak_mb": peak, "machine": machine, "threads": args.threads}))
    for row in rows:
        values = "  ".join(f"{key} {value:.3g}" for key, value in row.items() if not isinstance(value, str))
        print(f"{row['shape']:8} {row['dtype']:9} {values}")
    print(f"peak {peak:.0f} MB in all, {machine}, {args.threads} threads")


if __name__ == "__main__":
    main()
