"""What it takes to prepare 250,000 hours, to train 1B, 3B and 8B, and to answer 1,000 requests a second.

Arithmetic over benchmarks/cost.toml, whose every value says whether it was measured, counted, published or
assumed. None of the results was run: they say what to rent, and which input to doubt first. No rate is hidden
here.

    python benchmarks/cost.py                                          # the tables of docs/scaling-out.md
    python benchmarks/cost.py --set prepare.hours=10000 --set serve.effort=1
    python benchmarks/cost.py --inputs my.toml --json
"""

import argparse
import json
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

INPUTS = Path(__file__).with_suffix(".toml")
DAY, HOUR = 86_400, 3_600

Values = Mapping[str, float]


@dataclass(frozen=True)
class Shape:
    """A Llama with codes in its vocabulary."""

    width: int
    layers: int
    kv_heads: int
    head_width: int
    inner: int
    ids: int
    tied: bool

    @property
    def multiplied(self) -> int:
        """Parameters that each id is multiplied with: layers and head."""
        keys = 2 * self.width * self.kv_heads * self.head_width
        return self.layers * (2 * self.width**2 + keys + 3 * self.width * self.inner) + self.width * self.ids

    @property
    def parameters(self) -> int:
        """All parameters but norms."""
        return self.multiplied + (0 if self.tied else self.width * self.ids)

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values of one id in bfloat16."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_width


@dataclass(frozen=True)
class Line:
    """A result. values: one, or one a model. how: what was multiplied and divided."""

    name: str
    values: tuple[float, ...]
    unit: str
    how: str


Value = float | Callable[[Shape], float]


def prepared(v: Values) -> Iterator[tuple[str, Value, str, str]]:
    """Yield what preparing takes: name, value, unit, how."""
    speech_s = v["prepare.hours"] * HOUR
    source = speech_s * v["prepare.source_bits_per_s"] / 8
    download_s = source * 8 / v["prepare.network_bits_per_s"]
    reading_s = v["prepare.hours"] * v["prepare.reading_s_per_h"]
    flops_per_s = v["gpu.flops_per_s"] * v["prepare.encode_utilization"]
    encoding_s = speech_s * v["prepare.encode_gflop_per_s"] * 1e9 / flops_per_s
    codes, rows = speech_s * v["prepare.codes_per_s"], speech_s / v["prepare.clip_s"]
    writing_s = rows / v["prepare.written_rows_per_s"]
    workers = v["prepare.gpus"] * v["prepare.workers_per_gpu"]
    working_s = max(encoding_s / v["prepare.gpus"], (reading_s + encoding_s) / workers)
    wall_s = max(download_s, working_s, writing_s)
    price = wall_s / HOUR * v["prepare.gpus"] * v["gpu.price_per_h"]
    yield "speech to download", source / 1e12, "TB", "hours x bit rate"
    yield "download", download_s / HOUR, "h", "over the network"
    yield "read, check, trim, level, resample", reading_s / HOUR, "core-hours", "hours x seconds an hour"
    yield "encode", encoding_s / HOUR, "GPU-hours", "FLOP over the share of a GPU that is used"
    yield "write the shards", writing_s / HOUR, "h", "rows over the rate of the one process that writes"
    yield "codes", codes / 1e9, "billion", "hours x codes a second"
    yield "rows", rows / 1e6, "million", "hours over the length of a clip"
    yield "shards on the disk", codes * v["prepare.shard_bytes_per_code"] / 1e9, "GB", "codes x bytes a code"
    yield "shards", rows / v["prepare.rows_per_shard"] / 1e3, "thousand", "rows over rows a shard"
    yield "cores that keep a GPU busy", reading_s / encoding_s, "cores", "reading over encoding"
    yield "workers", workers, "", "GPUs x workers of each"
    yield "read and encode", working_s / HOUR, "h", "in turns by each worker, or all GPUs full"
    yield "the whole", wall_s / DAY, "days", "the longest of download, workers, writing"
    yield "price of the machines", price, "$", "GPUs x the whole"


def trained(v: Values) -> Iterator[tuple[str, Value, str, str]]:
    """Yield what training takes: name, value, unit, how."""
    rows = v["prepare.hours"] * HOUR / v["prepare.clip_s"]
    said = v["prepare.codes_per_s"] + v["train.text_ids_per_s"]
    per_row = v["prepare.clip_s"] * said + v["train.row_ids"]
    ids = rows * per_row * v["train.epochs"]
    gpus, at_once = v["train.gpus"], v["train.ids_per_gpu"]

    def flops(one: Shape) -> float:
        # Forward, backward and, as only the inputs of layers are kept, forward again: 8 a parameter and id.
        # An id attends to half of its row on average.
        attended = 16 * one.layers * one.width * per_row / 2
        return ids * (1 + v["train.padding"]) * (8 * one.multiplied + attended)

    def gpu_h(one: Shape) -> float:
        return flops(one) / (v["gpu.flops_per_s"] * v["train.utilization"]) / HOUR

    def held_bytes(one: Shape) -> float:
        layer = (one.multiplied - one.width * one.ids) / one.layers
        whole = 2 * (2 * layer + one.width * one.ids * (1 if one.tied else 2))  # gathered in bfloat16
        inputs = 2 * at_once * one.layers * one.width
        inside = 2 * at_once * (8 * one.width + 4 * one.inner)  # of the layer that is being learnt
        logits = v["train.chunk_bytes"] * v["train.chunks"]
        return one.parameters * v["train.state_bytes"] / gpus + whole + inputs + inside + logits

    def host_bytes(one: Shape) -> float:
        return v["train.gpus_per_host"] * 4 * one.parameters

    yield "ids, all epochs", ids / 1e9, "billion", "rows x (codes, text, template) x epochs"
    yield "steps", ids / v["train.batch_ids"] / 1e3, "thousand", "ids over ids a step"
    yield "parameters", lambda one: one.parameters / 1e9, "billion", "of the shape"
    yield "FLOP", lambda one: flops(one) / 1e21, "10^21", "8 a parameter and id, and attention"
    yield "GPU-hours", gpu_h, "h", "FLOP over the share of a GPU that is used"
    yield "time on all GPUs", lambda one: gpu_h(one) / gpus / 24, "days", "over the GPUs"
    how = "state over the GPUs; two layers and the embedding whole; what a batch keeps"
    yield "memory a GPU, FSDP", lambda one: held_bytes(one) / 1e9, "GB", how
    yield "memory a host at the start", lambda one: host_bytes(one) / 1e9, "GB", "processes x float32 weights"
    kept = v["train.checkpoint_bytes"]
    yield "a checkpoint", lambda one: one.parameters * kept / 1e9, "GB", "parameters x bytes of the files"
    yield "price of the machines", lambda one: gpu_h(one) * v["gpu.price_per_h"], "$", "GPU-hours"


def served(v: Values) -> Iterator[tuple[str, Value, str, str]]:
    """Yield what serving takes: name, value, unit, how."""
    requests, effort = v["serve.requests_per_s"], v["serve.effort"]
    speech = requests * v["serve.speech_s"]
    per_candidate = v["serve.speech_s"] * v["prepare.codes_per_s"]
    codes, judged = requests * effort * per_candidate, effort if effort > 1 else 0
    context = v["serve.prompt_ids"] + per_candidate / 2  # on average, while it is drawn

    def gpus(flop_per_s: float, share: str) -> float:
        return flop_per_s / (v["gpu.flops_per_s"] * v[share]) / v["serve.load"]

    def step_s(one: Shape) -> float:
        read = 2 * one.multiplied + v["serve.batch"] * context * one.kv_bytes
        return read / (v["gpu.bytes_per_s"] * v["serve.memory_utilization"])

    def drawing(one: Shape) -> float:
        prompts = gpus(requests * v["serve.prompt_ids"] * 2 * one.multiplied, "serve.prompt_utilization")
        return codes * step_s(one) / v["serve.batch"] / v["serve.load"] + prompts

    def speed(one: Shape) -> float:
        return 1 / step_s(one) / v["prepare.codes_per_s"]

    def fit(one: Shape) -> float:
        left = v["gpu.memory"] * v["serve.memory_share"] - 2 * one.parameters
        return left / ((v["serve.prompt_ids"] + per_candidate) * one.kv_bytes)

    def kv_bytes(one: Shape) -> float:
        return codes * step_s(one) * context * one.kv_bytes

    decode = gpus(speech * effort * v["serve.decode_gflop_per_s"] * 1e9, "serve.decode_utilization")
    small = gpus(speech * judged * v["serve.ctc_gflop_per_s"] * 1e9, "serve.judge_utilization")
    large = gpus(requests * judged * v["serve.whisper_tflop"] * 1e12, "serve.judge_utilization")
    inside = requests * v["serve.allowed_bytes"] + codes * v["serve.reply_bytes_per_code"]
    outside = speech * v["serve.sound_bits_per_s"]

    def price(one: Shape) -> float:
        return (drawing(one) + decode + small) * v["gpu.price_per_h"] / speech

    yield "codes", codes / 1e3, "thousand/s", "requests x effort x speech x codes a second"
    yield "a step", lambda one: 1e3 * step_s(one), "ms", "weights and keys of a batch over the bandwidth"
    yield "a GPU draws", lambda one: v["serve.batch"] / step_s(one) / 1e3, "thousand/s", "a batch over a step"
    yield "candidates that fit", fit, "", "memory less weights, over keys and values of one at its end"
    yield "a candidate's speed", speed, "x real time", "one over a step, over codes a second"
    yield "GPUs that draw", drawing, "GPUs", "codes and prompts over what a GPU does, at its load"
    yield "candidates alive", lambda one: codes * step_s(one) / 1e3, "thousand", "codes a second x a step"
    yield "their keys and values", lambda one: kv_bytes(one) / 1e9, "GB", "alive x ids x bytes of an id"
    yield "GPUs that decode", decode, "GPUs", "FLOP of the decoder for every candidate"
    yield "GPUs that judge, small recogniser", small, "GPUs", "FLOP of a CTC model; none at effort 1"
    yield "GPUs that judge, Whisper large", large, "GPUs", "FLOP over 30 s; none at effort 1"
    yield "cores of the service", requests * v["serve.core_s"] / v["serve.load"], "cores", "seconds a request"
    yield "between service and vLLM", inside * 8 / 1e9, "Gbit/s", "allowed ids of requests, streams of codes"
    yield "to clients", outside / 1e9, "Gbit/s", "speech x bit rate"
    yield "all GPUs", lambda one: drawing(one) + decode + small, "GPUs", "drawing, decoding, a small judge"
    yield "an hour of speech", price, "$", "price of those GPUs over the speech they make"


def read(path: Path, settings: Sequence[str]) -> tuple[dict[str, dict[str, Any]], dict[str, Shape]]:
    """Return the inputs by `table.name`, and the shapes of models; settings are `table.name=number`."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    models = {name: Shape(*shape) for name, shape in tables.pop("models").items()}
    inputs = {f"{table}.{name}": one for table, names in tables.items() for name, one in names.items()}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in inputs:
            sys.exit(f"Reading --set {setting}: there is no input '{name}'. Known are: {', '.join(inputs)}.")
        try:
            inputs[name] = inputs[name] | {"value": float(value), "from": "given: --set"}
        except ValueError:
            sys.exit(f"Reading --set {setting}: '{value}' is no number.")
    return inputs, models


def figure(value: float) -> str:
    """Return a number with three digits that count."""
    if 999.5 <= value < 1e9:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def results(inputs: Mapping[str, Mapping[str, Any]], models: Mapping[str, Shape]) -> dict[str, list[Line]]:
    """Return the lines of each table by its title."""
    v, shapes = {name: float(one["value"]) for name, one in inputs.items()}, models.values()

    def line(name: str, value: Value, unit: str, how: str) -> Line:
        values = tuple(value(one) for one in shapes) if callable(value) else (value,)
        return Line(name, values, unit, how)

    return {
        f"Preparing {v['prepare.hours']:,.0f} hours": [line(*one) for one in prepared(v)],
        f"Training on them, {v['train.gpus']:,.0f} GPUs": [line(*one) for one in trained(v)],
        f"Serving {v['serve.requests_per_s']:,.0f} requests a second": [line(*one) for one in served(v)],
    }


def page(inputs: Mapping[str, Mapping[str, Any]], models: Mapping[str, Shape]) -> str:
    """Return the tables in Markdown."""
    told = list[str]()
    for title, lines in results(inputs, models).items():
        wide = any(len(one.values) > 1 for one in lines)
        heads = tuple(models) if wide else ("",)
        told += [f"### {title}", "", f"| | {' | '.join(heads)} | | how |", "|---" * (3 + len(heads)) + "|"]
        for one in lines:
            values = [figure(value) for value in one.values] * (len(heads) // len(one.values))
            told.append(f"| {one.name} | {' | '.join(values)} | {one.unit} | {one.how} |")
        told.append("")
    told += ["### Inputs", "", "| input | value | from |", "|---|---|---|"]
    for name, one in inputs.items():
        told.append(f"| `{name}` | {figure(one['value'])} {one['unit']} | {one['from']} |")
    return "\n".join(told)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=Path, default=INPUTS)
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.NAME=NUMBER", dest="settings")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    inputs, models = read(given.inputs, given.settings)
    if given.json:
        tables = {title: [asdict(one) for one in lines] for title, lines in results(inputs, models).items()}
        print(json.dumps({"inputs": inputs, "models": list(models), "tables": tables}, indent=1))
    else:
        print(page(inputs, models))


if __name__ == "__main__":
    main()
