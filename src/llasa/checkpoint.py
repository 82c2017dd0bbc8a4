"""Published Llasa checkpoints, which carry no `bundle.toml`: what it would say, read off their files.

Must not know: the Hub, how parts are loaded.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

from llasa import config
from llasa.errors import BundleError, ConfigError
from llasa.manifest import CodecPart, LmPart, Manifest, Sampling
from llasa.weights import pickles

# The codec that the published models speak in, by the number of its codes.
CODECS = {65_536: "HKUSTAudio/xcodec2-hf"}
# Rows of training held this many ids (zhenye234/LLaSA_training), though the base models hold far more.
TRAINED_LENGTH = 2048
_SPEECH = re.compile(r"<\|s_(\d+)\|>")


def codebook_size(folder: Path) -> int:
    """Return how many speech tokens the tokenizer of a language model has.

    Raises:
        BundleError: it is missing or damaged, or has none.
    """
    added = _json(folder / "tokenizer.json", "added_tokens")
    tokens = added if isinstance(added, list) else []
    names = (str(token.get("content")) for token in tokens if isinstance(token, dict))
    count = sum(_SPEECH.fullmatch(name) is not None for name in names)
    if not count:
        raise _unfit(folder, "the tokenizer has no speech tokens, <|s_0|> and on", "Name a Llasa model")
    return count


def inferred(folder: Path, name: str, source: str | None, codec: Path) -> Manifest:
    """Return the manifest of a checkpoint in the published layout: a language model and nothing else.

    Args:
        folder: with `config.json`, tokenizer and safetensors weights.
        name: what the bundle shall be called.
        source: what the codec is called: a folder or a Hub id; None if it is in the model's folder `codec`.
        codec: its folder.

    Raises:
        BundleError: a file is missing or damaged, or the codec has another number of codes than the model.
    """
    part = _codec(codec, source)
    found = codebook_size(folder)
    if found != part.codebook_size:
        expected = f"expected a codec of {found} codes, as the language model has, found {part.codebook_size}"
        raise _unfit(folder, f"{expected} in '{codec}'", "Name the codec it was trained with")
    # The sampling of the model card, not that of generation_config.json, which is the base model's for chat.
    return Manifest(format=1, name=name, lm=_lm(folder), codec=part, sampling=Sampling(), files={})


def _lm(folder: Path) -> LmPart:
    length = _json(folder / "config.json", "max_position_embeddings")
    if not isinstance(length, int) or length < 1:
        found = f"expected a max_position_embeddings above 0 in config.json, found {length!r}"
        raise _unfit(folder, found, "Fetch it again")
    return LmPart(path=".", family="llasa-chat", text="written", max_length=min(length, TRAINED_LENGTH))


def check_weights(folder: Path) -> None:
    """See that a model has weights, all in its folder, that can be opened without running anything.

    Raises:
        BundleError: it has none, or pickled ones only, or its index names files that are not there.
    """
    files = {path.name for path in folder.glob("*.safetensors")}
    if not files:
        unsafe = pickles(folder)
        found = f"only {', '.join(unsafe)}, which can run code when opened" if unsafe else "no weights"
        todo = "Fetch a safetensors copy, or make one: huggingface.co/spaces/safetensors/convert"
        raise _unfit(folder, f"expected model.safetensors, found {found}", todo)
    for index in folder.glob("*.safetensors.index.json"):
        places = _json(index, "weight_map")
        named = {str(name) for name in places.values()} if isinstance(places, dict) else {"no files"}
        if absent := sorted(named - files):
            raise _unfit(
                folder, f"{index.name} names {absent[0]}, which is not in the folder", "Fetch it again"
            )


def _codec(folder: Path, source: str | None) -> CodecPart:
    """Return what a codec in transformers' own layout says of itself, without loading it."""
    doing = f"Reading config.json of the codec '{folder}'"
    content = _object(folder / "config.json", doing)
    try:
        heard = content.get("input_sampling_rate") or content["sampling_rate"]
        spoken = content.get("output_sampling_rate") or content["sampling_rate"]
        facts = {
            "kind": content["model_type"],
            "sample_rate": spoken,
            "codebook_size": math.prod(content["quantization_levels"]),
            "hop_length": math.prod(content["downsampling_ratios"]) * spoken // heard,
        }
    except (KeyError, TypeError, ArithmeticError) as error:
        found = f"found model_type '{content.get('model_type')}' without {error}"
        todo = "Use a codec in transformers' own layout; llasa codec convert makes one of older files"
        raise BundleError(f"{doing}: {found}. {todo}.") from error
    try:
        return config.build(CodecPart, {"source": source, **facts}, doing)
    except ConfigError as error:
        raise BundleError(str(error)) from error


def _json(path: Path, key: str) -> Any:
    content = _object(path, f"Loading the model in '{path.parent}'")
    if key not in content:
        raise _unfit(path.parent, f"{path.name} has no {key}", "Fetch it again")
    return content[key]


def _object(path: Path, doing: str) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")).items())
    except (OSError, ValueError, AttributeError) as error:
        raise BundleError(f"{doing}: {path.name} is missing or damaged ({error}). Fetch it again.") from error


def _unfit(folder: Path, found: str, todo: str) -> BundleError:
    return BundleError(f"Loading the model in '{folder}': {found}. {todo}.")
