"""What a language model's training starts from, as a bundle: one that is there, a base grown, or a new one.

Must not know: data, trainers.
"""

import json
import math
import shutil
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field

from llasa import config, shortage
from llasa.bundle import Bundle, load_bundle, seal
from llasa.errors import BundleError, ConfigError
from llasa.hub import Access, fetched, located
from llasa.manifest import MANIFEST
from llasa.prompt import Prompt, speech_token
from llasa.train.languages import add_languages, symbols_of
from llasa.train.vocabulary import digit_sums, grow

LONGEST = 2048  # ids; rows of Llasa's own training
MADE = ".made.json"  # what a folder was made from; last, so that without it the folder is made again


class Scratch(BaseModel):
    """A new Llama. text: the form that it reads. Sizes are transformers' of `LlamaConfig`."""

    model_config = config.STRICT
    text: Literal["phones", "characters"] = "phones"
    hidden_size: int = Field(default=256, gt=0)
    num_hidden_layers: int = Field(default=6, gt=0)
    intermediate_size: int | None = Field(default=None, gt=0)
    num_attention_heads: int | None = Field(default=None, gt=0)
    num_key_value_heads: int | None = Field(default=None, gt=0)
    tie_word_embeddings: bool = True
    max_length: int = Field(default=1024, gt=0)
    separator: str = " | "


class Start(BaseModel):
    """What is trained.

    model: a bundle, a published Llasa model, or any causal LM, which is given markers and codes first; a
    folder or Hub id. scratch: in place of it, the sizes of a new one. codec: a folder or Hub id, or a bundle
    whose codec it is; if None the model's own, or the starter's. languages: that a model of phones shall
    read besides those it knows, or besides English; models of text as it is written read any.
    """

    model_config = config.STRICT
    model: str | None = None
    scratch: Scratch | None = None
    codec: str | None = None
    languages: list[str] = []
    seed: int = 0


def starting_bundle(start: Start, folder: Path) -> Bundle:
    """Return the bundle to train; one that has to be made first is made in `folder`, once for these settings.

    Raises:
        ConfigError: both or none of model and scratch, a codec where the model has its own, a language
            that cannot be added, or the disk is full.
        BundleError: a model or codec is damaged, or they do not fit each other.
    """
    if (start.model is None) == (start.scratch is None):
        found = "both model and [scratch]" if start.model else "neither model nor [scratch]"
        raise ConfigError(f"Choosing what to train: found {found}. Give one of them.")
    told = start.model_dump_json(include=set(Start.model_fields))
    made = folder / MADE
    if made.is_file() and made.read_text(encoding="utf-8") == told:
        return load_bundle(folder)
    shutil.rmtree(folder, ignore_errors=True)  # of other settings, or what a killed run left
    with shortage.told(f"Making what is to be trained in '{folder}'", folder):
        bundle = _begun(start, folder)
        if bundle.folder == folder:
            made.write_text(told, encoding="utf-8")
    return bundle


def _begun(start: Start, folder: Path) -> Bundle:
    if start.scratch is not None:
        return _made(folder, start, start.scratch)
    base = _starter() if start.model == "starter" else located(str(start.model), Access())
    if not _speaks(base):
        fetched(base)
        return _grown(base, start.codec, folder, start.seed)
    bundle = load_bundle(str(start.model), codec=start.codec)
    new = [language for language in start.languages if language not in bundle.manifest.lm.languages]
    if not new or bundle.manifest.lm.text == "written":
        return bundle
    add_languages(str(start.model), new, folder)
    return load_bundle(folder)


def _speaks(base: Path) -> bool:
    """Whether it is a bundle, or a language model whose tokenizer has codes."""
    file = base / "tokenizer.json"
    if (base / MANIFEST).is_file() or not file.is_file():
        return True  # what is wrong with it, loading it as a bundle will tell
    return f'"{speech_token(0)}"' in file.read_text(encoding="utf-8")


def _starter() -> Path:
    return Path(str(resources.files("llasa") / "assets" / "starter"))


def _made(folder: Path, start: Start, scratch: Scratch) -> Bundle:
    from llasa.train.tokenizer import build_character_tokenizer, build_phone_tokenizer, extend_tokenizer

    new = [language for language in start.languages if language != "en"]
    symbols = symbols_of(new, scratch.text, "Making a new model")
    choice, levels = _take_codec(start.codec, folder)
    lm = folder / "lm"
    build = build_phone_tokenizer if scratch.text == "phones" else build_character_tokenizer
    build(lm, math.prod(levels))
    if symbols:
        extend_tokenizer(lm, symbols, lm)
    prompt = Prompt.load(lm, "llasa-plain", math.prod(levels), scratch.separator)
    torch.manual_seed(start.seed)
    new_llama(prompt, levels, scratch).save_pretrained(lm)
    if scratch.text == "phones":
        shutil.copytree(_starter() / "phones", folder / "phones", dirs_exist_ok=True)
    form = {"text": scratch.text, "max_length": scratch.max_length, "separator": scratch.separator}
    return _sealed(folder, {"family": "llasa-plain", "languages": ["en", *new], **form}, choice)


def new_llama(prompt: Prompt, levels: list[int], scratch: Scratch) -> Any:
    """Return an untrained Llama, its code embeddings started from the codec's grid."""
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = scratch.num_attention_heads or max(1, scratch.hidden_size // 64)
    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=-(-prompt.vocab_size // 64) * 64, hidden_size=scratch.hidden_size,
            intermediate_size=scratch.intermediate_size or scratch.hidden_size * 11 // 4,
            num_hidden_layers=scratch.num_hidden_layers, num_attention_heads=heads,
            num_key_value_heads=scratch.num_key_value_heads or heads,
            max_position_embeddings=scratch.max_length, tie_word_embeddings=scratch.tie_word_embeddings,
            bos_token_id=None, eos_token_id=prompt.end_id,
        )
    )  # fmt: skip
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        codes = slice(prompt.first_code_id, prompt.first_code_id + prompt.codebook_size)
        weight[codes] = digit_sums(levels, weight.shape[1]) * weight.std()
    return model


def _grown(base: Path, codec: str | None, folder: Path, seed: int) -> Bundle:
    choice, levels = _take_codec(codec, folder)
    grow(base, levels, folder / "lm", seed)
    settings = json.loads((folder / "lm" / "config.json").read_text(encoding="utf-8"))
    reader = folder / "lm" / "tokenizer_config.json"
    chats = (folder / "lm" / "chat_template.jinja").is_file() or "chat_template" in reader.read_text("utf-8")
    length = min(LONGEST, settings.get("max_position_embeddings", LONGEST))
    family = "llasa-chat" if chats else "llasa-plain"
    return _sealed(folder, {"family": family, "text": "written", "max_length": length}, choice)


def _take_codec(codec: str | None, folder: Path) -> tuple[dict[str, str], list[int]]:
    """Copy a codec into a bundle, unless it is on the Hub; return its `[codec]` table and its levels."""
    place = _starter() if codec in (None, "starter") else located(str(codec), Access())
    place = place / "codec" if (place / "codec" / "config.json").is_file() else place
    try:
        facts = json.loads((place / "config.json").read_text(encoding="utf-8"))
        kind = facts.get("model_type", "compact")
        levels = [int(level) for level in facts["levels" if kind == "compact" else "quantization_levels"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"Reading the codec '{place}': config.json is missing or damaged ({error!r}). Name a codec's "
            "folder, a bundle or a Hub id."
        ) from error
    if codec is not None and not Path(codec).exists() and codec != "starter":
        return {"kind": kind, "source": codec}, levels
    shutil.copytree(place, folder / "codec", dirs_exist_ok=True)
    return {"kind": kind}, levels


def _sealed(folder: Path, lm: dict[str, Any], codec: dict[str, str]) -> Bundle:
    seal(folder, {"name": folder.parent.name or "model", "lm": lm, "codec": codec})
    return load_bundle(folder)


def with_model(bundle: Bundle, lm: Path, folder: Path) -> Bundle:
    """Return a bundle with another language model, laid out in `folder` as links, which is replaced.

    Args:
        lm: folder of config and weights, to stay while the bundle is used; the tokenizer is the bundle's.
    """
    shutil.rmtree(folder, ignore_errors=True)
    inside = folder / bundle.manifest.lm.path
    inside.mkdir(parents=True)
    own = bundle.folder / bundle.manifest.lm.path
    weights = {path.name for path in own.glob("*.safetensors*")}
    _link(lm, inside, set())
    _link(own, inside, weights)
    _link(bundle.folder, folder, weights if own == bundle.folder else set())
    return replace(bundle, folder=folder)


def _link(source: Path, folder: Path, but: set[str]) -> None:
    for path in source.iterdir():
        if path.name not in but and not (folder / path.name).exists():
            (folder / path.name).symlink_to(path.resolve())
