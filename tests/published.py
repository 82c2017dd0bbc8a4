"""Checkpoints of random weights in the layout of the published ones: HKUSTAudio/Llasa-*, fine-tunes on other
bases, and HKUSTAudio/xcodec2-hf. Written a shard at a time, so that an 8B needs little memory.

    python -m tests.published FOLDER --shape 1b

Configurations are written by hand as transformers 4 wrote them. Text vocabularies are invented (any text can
be encoded); `LLASA_TEST_LLAMA3_TOKENIZER` may name a folder with Llama-3's own tokenizer.
"""

import argparse
import base64
import json
import os
from collections.abc import Iterator, Sequence
from itertools import chain, islice, product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoConfig, AutoModelForCausalLM, Xcodec2Config, Xcodec2Model
from transformers.convert_slow_tokenizer import TikTokenConverter

from llasa.prompt import MARKERS, speech_token
from tests.contracts.test_codec import tiny_xcodec2

Shape = Literal["tiny", "1b", "3b", "8b"]
BaseName = Literal["llama3", "qwen", "smollm"]
Json = dict[str, Any]

CODEBOOK_SIZE = 65_536
SHARD_BYTES = 2_000_000_000
FULL_SPREAD = 3000.0  # of the quantiser's input: random latents lie so close that all would get one code
TRUE_TOKENIZER = "LLASA_TEST_LLAMA3_TOKENIZER"
SHAPES: dict[Shape, tuple[int, ...]] = {  # width, layers, heads, key-value heads, head width, inner width
    "tiny": (32, 2, 4, 2, 8, 64),
    "1b": (2048, 16, 32, 8, 64, 8192),
    "3b": (3072, 28, 24, 8, 128, 8192),
    "8b": (4096, 32, 32, 8, 128, 14336),
}
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What the published templates write for messages of plain text.
LLAMA3_TEMPLATE = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- "<|start_header_id|>" + message["role"] + "<|end_header_id|>\\n\\n" \
+ message["content"] | trim + "<|eot_id|>" }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}
{%- endif %}
"""
CHATML_TEMPLATE = """{%- for message in messages %}
    {%- if loop.first and message["role"] != "system" %}
        {{- "<|im_start|>system\\nSYSTEM<|im_end|>\\n" }}
    {%- endif %}
    {{- "<|im_start|>" + message["role"] + "\\n" + message["content"] + "<|im_end|>\\n" }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|im_start|>assistant\\n" }}
{%- endif %}
"""
CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN_SPECIAL = (
    *CHATML, "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>",
    "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>",
)  # fmt: skip


class Base(NamedTuple):
    """A language model that Llasa was trained from, as far as its tokenizer goes.

    words: entries of the byte-level vocabulary. special: added behind it, or, if `first`, in front of it and
    in it. normalizer, split: how text is cut, as in `tokenizer.json`.
    config: what its `config.json` adds, token ids by name.
    """

    words: int
    special: tuple[str, ...]
    first: bool
    template: str
    bos: str | None
    end: str
    normalizer: Json | None
    split: list[Json]
    config: Json


def _byte_level(use_regex: bool) -> Json:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": not use_regex,
        "use_regex": use_regex,
    }


def _regex(pattern: str) -> list[Json]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return [split, _byte_level(False)]


def _llama3_special() -> tuple[str, ...]:
    named = {
        0: "begin_of_text", 1: "end_of_text", 4: "finetune_right_pad_id", 6: "start_header_id",
        7: "end_header_id", 8: "eom_id", 9: "eot_id", 10: "python_tag",
    }  # fmt: skip
    reserved = (f"reserved_special_token_{number}" for number in range(248))
    return tuple(f"<|{named[place] if place in named else next(reserved)}|>" for place in range(256))


BASES: dict[BaseName, Base] = {
    "llama3": Base(
        128_000, _llama3_special(), False, LLAMA3_TEMPLATE, "<|begin_of_text|>", "<|eot_id|>",
        None, _regex(LLAMA3_SPLIT),
        {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0, "max_position_embeddings": 131_072, "bos_token_id": "<|begin_of_text|>",
            "eos_token_id": ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
        },
    ),
    "qwen": Base(
        151_643,
        QWEN_SPECIAL, False,
        CHATML_TEMPLATE.replace(
            "SYSTEM", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
        ),
        None, "<|im_end|>", {"type": "NFC"}, _regex(LLAMA3_SPLIT.replace("{1,3}", "")),
        {
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rms_norm_eps": 1e-6,
            "rope_theta": 1_000_000.0, "max_position_embeddings": 32_768, "bos_token_id": "<|endoftext|>",
            "eos_token_id": "<|im_end|>", "use_sliding_window": False,
        },
    ),
    "smollm": Base(
        49_152, (*CHATML, *(f"<reserved_{number}>" for number in range(14))), True,
        CHATML_TEMPLATE.replace(
            "SYSTEM", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
        ),
        "<|im_start|>", "<|im_end|>", None,
        [{"type": "Digits", "individual_digits": True}, _byte_level(True)],
        {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "rms_norm_eps": 1e-5,
            "rope_theta": 100_000.0, "max_position_embeddings": 8192,
            "bos_token_id": "<|im_start|>", "eos_token_id": "<|im_end|>",
        },
    ),
}  # fmt: skip


def build_llasa(
    folder: Path, shape: Shape = "tiny", base: BaseName = "llama3", dtype: torch.dtype = torch.bfloat16,
    seed: int = 0, vocab: Literal["full", "small"] = "full", codebook_size: int = CODEBOOK_SIZE,
) -> Path:  # fmt: skip
    """Write a checkpoint of random weights, and return its folder.

    Args:
        shape: of Llama 3.2 1B and 3B or 3.1 8B, whatever the base. base: its tokenizer and architecture.
        vocab: `full` has the base's number of words (Llama-3: 193,800 rows in all); `small` has bytes only,
            then special tokens, markers and speech tokens as ever.
        codebook_size: speech tokens; X-Codec2's unless a test wants fewer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = add_llasa(_true_tokenizer(base) or invented(base, vocab), codebook_size)
    places = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    config = _config(shape, base, dtype, places)
    save_tokenizer(folder, base, tokenizer)
    _write(folder / "config.json", config)
    sampling = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}  # the base's, which are not Llasa's
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id")}
    _write(folder / "generation_config.json", {**ids, **sampling, "transformers_version": "4.45.2"})
    _write_weights(folder, dtype, seed)
    return folder


def save_tokenizer(folder: Path, base: BaseName, tokenizer: Json) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`."""
    _write(folder / "tokenizer.json", tokenizer)
    _write(folder / "tokenizer_config.json", _tokenizer_config(base, tokenizer["added_tokens"]))


def add_llasa(tokenizer: Json, codebook_size: int = CODEBOOK_SIZE) -> Json:
    """Return a base's `tokenizer.json` with markers and speech tokens behind, as `add_tokens` puts them."""
    first = 1 + max(chain(tokenizer["model"]["vocab"].values(), (t["id"] for t in tokenizer["added_tokens"])))
    names = (*MARKERS, *map(speech_token, range(codebook_size)))
    added = [_added(name, first + place, special=False) for place, name in enumerate(names)]
    return tokenizer | {"added_tokens": tokenizer["added_tokens"] + added}


def invented(base: BaseName, vocab: Literal["full", "small"] = "full") -> Json:
    """Return a `tokenizer.json` as the base's own but for its words: bytes, pairs of bytes, and triples."""
    found, alphabet = BASES[base], sorted(ByteLevel.alphabet())
    special = found.special if found.first else ()
    room = found.words - len(alphabet) - len(special) if vocab == "full" else 0
    pairs = product(alphabet, alphabet)
    triples = ((left + right, third) for left, right, third in product(alphabet, repeat=3))
    merges = list(islice(chain(pairs, triples), room))
    words = [*special, *alphabet, *map("".join, merges)]
    return like(base, {word: place for place, word in enumerate(words)}, merges)


def tokenizer_of(base: BaseName, path: Path) -> Json:
    """Return the `tokenizer.json` of a base whose own vocabulary is there.

    Args:
        path: a folder with `tokenizer.json` (of the base or of a Llasa on it) or else with `tokenizer.model`,
            or a file of tiktoken ranks.
    """
    found, file = BASES[base], path / "tokenizer.json"
    if file.is_file():
        own = json.loads(file.read_text("utf-8"))
        return own | {"added_tokens": [token for token in own["added_tokens"] if token["special"]]}
    ranks: Any = _Ranks(str(path / "tokenizer.model" if path.is_dir() else path))
    vocab, merges = ranks.extract_vocab_merges_from_model(ranks.vocab_file)
    special = found.special if found.first else ()
    words = {word: rank + len(special) for word, rank in vocab.items() if rank + len(special) < found.words}
    vocab = {name: place for place, name in enumerate(special)} | words
    return like(base, vocab, [pair for pair in merges if {*pair, "".join(pair)} <= vocab.keys()])


class _Ranks(TikTokenConverter):
    """Transformers' converter without the package tiktoken, which it wants for reading a file only."""

    @staticmethod
    def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
        rows = (line.split() for line in Path(tiktoken_url).read_bytes().splitlines() if line)
        return {base64.b64decode(word): int(rank) for word, rank in rows}


def like(base: BaseName, vocab: dict[str, int], merges: Sequence[tuple[str, str]]) -> Json:
    """Return the `tokenizer.json` of a base with another vocabulary; special tokens follow its largest id."""
    found = BASES[base]
    first = 0 if found.first else 1 + max(vocab.values())
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [_added(name, first + place, True) for place, name in enumerate(found.special)],
        "normalizer": found.normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": found.split},
        "post_processor": _starting(found.bos, first) if base == "llama3" else _byte_level(False),
        "decoder": _byte_level(True),
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": base == "llama3", "vocab": vocab, "merges": [" ".join(pair) for pair in merges],
        },
    }  # fmt: skip


def build_xcodec2(folder: Path, full: bool = False) -> Path:
    """Write an X-Codec2 of random weights in transformers' layout, full size or 0.6 M parameters."""
    (_full_xcodec2() if full else tiny_xcodec2()).save_pretrained(folder)
    return folder


def _full_xcodec2() -> Xcodec2Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Xcodec2Model(Xcodec2Config()).eval()
    model.quantizer.project_in.weight.data.mul_(FULL_SPREAD)
    return model


def _added(name: str, place: int, special: bool) -> Json:
    sides = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": not special}
    return {"id": place, "content": name, **sides, "special": special}


def _starting(bos: str | None, place: int) -> Json:
    begin, text = {"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    other = {"Sequence": {"id": "B", "type_id": 1}}
    template = {
        "type": "TemplateProcessing", "single": [begin, text],
        "pair": [begin, text, {"SpecialToken": {"id": bos, "type_id": 1}}, other],
        "special_tokens": {bos: {"id": bos, "ids": [place], "tokens": [bos]}},
    }  # fmt: skip
    return {"type": "Sequence", "processors": [_byte_level(True) | {"trim_offsets": False}, template]}


def _true_tokenizer(base: BaseName) -> Json | None:
    folder = os.environ.get(TRUE_TOKENIZER)
    return tokenizer_of("llama3", Path(folder)) if folder and base == "llama3" else None


def _tokenizer_config(base: BaseName, added: Sequence[Json]) -> Json:
    found = BASES[base]
    known = {str(token["id"]): {key: token[key] for key in token if key != "id"} for token in added}
    return {
        "added_tokens_decoder": known, "bos_token": found.bos, "chat_template": found.template,
        "clean_up_tokenization_spaces": base == "llama3", "eos_token": found.end, "pad_token": found.end,
        "model_max_length": 2048, "padding_side": "right", "tokenizer_class": "PreTrainedTokenizerFast",
    }  # fmt: skip


def _config(shape: Shape, base: BaseName, dtype: torch.dtype, places: dict[str, int]) -> Json:
    width, layers, heads, kv_heads, head_width, inner = SHAPES[shape]
    config = {
        "vocab_size": 1 + max(places.values()), "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_width,
        "intermediate_size": inner, "hidden_act": "silu", "attention_bias": False,
        "attention_dropout": 0.0, "mlp_bias": False,
        "initializer_range": 0.02, "tie_word_embeddings": shape != "8b", "use_cache": True,
        "torch_dtype": str(dtype).removeprefix("torch."), "transformers_version": "4.45.2",
    }  # fmt: skip
    if base == "llama3":
        stretch = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
        factor = 8.0 if shape == "8b" else 32.0
        config["rope_scaling"] = {"rope_type": "llama3", "factor": factor, **stretch}
    for key, value in BASES[base].config.items():
        named = key.endswith("_token_id")
        config[key] = _ids(value, places) if named else value
    return config


def _ids(names: str | list[str], places: dict[str, int]) -> int | list[int]:
    return places[names] if isinstance(names, str) else [places[name] for name in names]


def _write_weights(folder: Path, dtype: torch.dtype, seed: int) -> None:
    config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set[str]()
    sizes = {name: weight.shape for name, weight in model.state_dict().items() if name not in tied}
    shards = list(_shards(sizes, dtype.itemsize))
    random, places = torch.Generator().manual_seed(seed), dict[str, str]()
    for number, names in enumerate(shards, 1):
        whole = len(shards) == 1
        file = "model.safetensors" if whole else f"model-{number:05}-of-{len(shards):05}.safetensors"
        places |= dict.fromkeys(names, file)
        tensors = {name: _random(name, sizes[name], dtype, config.hidden_size, random) for name in names}
        save_file(tensors, folder / file, {"format": "pt"})
    if len(shards) > 1:
        total = dtype.itemsize * sum(size.numel() for size in sizes.values())
        _write(
            folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places}
        )


def _shards(sizes: dict[str, torch.Size], itemsize: int) -> Iterator[list[str]]:
    names, room = list[str](), SHARD_BYTES
    for name, size in sizes.items():
        wanted = size.numel() * itemsize
        if names and wanted > room:
            yield names
            names, room = [], SHARD_BYTES
        names.append(name)
        room -= wanted
    yield names


def _random(
    name: str, size: torch.Size, dtype: torch.dtype, width: int, random: torch.Generator
) -> torch.Tensor:
    if name.endswith("norm.weight"):
        return torch.ones(size, dtype=dtype)
    # 0.02 at the widths of real models, and enough in a narrow one to tell logits apart
    return torch.empty(size, dtype=dtype).normal_(0, width**-0.5, generator=random)


def _write(path: Path, content: Json) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), "utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m tests.published", description="Write a random Llasa.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--base", choices=BASES, default="llama3")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vocab", choices=("full", "small"), default="full")
    parser.add_argument("--codec", choices=("none", "tiny", "full"), default="none", help="in FOLDER/codec")
    chosen = parser.parse_args(arguments)
    build_llasa(chosen.folder, chosen.shape, chosen.base, seed=chosen.seed, vocab=chosen.vocab)
    if chosen.codec != "none":
        build_xcodec2(chosen.folder / "codec", chosen.codec == "full")


if __name__ == "__main__":
    main()
