"""Codecs: sound to codes and back. `load_codec` opens the folder of any kind; each kind loads lazily."""

import json
from pathlib import Path

from llasa.codec.base import Codec
from llasa.errors import BundleError


def load_codec(folder: str | Path, device: str | None = None) -> Codec:
    """Return the codec of a folder, of the kind that its `config.json` says.

    Args:
        folder: what `llasa train codec` or `llasa codec convert` wrote.
        device: torch device of an X-Codec2; the compact codec stays on the CPU.

    Raises:
        BundleError: no codec's folder, or a damaged one.
    """
    path = Path(folder) / "config.json"
    try:
        sizes = json.loads(path.read_text(encoding="utf-8"))
        foreign = "model_type" in sizes  # transformers' name of its own models
    except (OSError, ValueError, TypeError) as error:
        todo = "Name the folder that holds a codec's config.json and its weights"
        raise BundleError(f"Loading a codec from '{folder}': {error}. {todo}.") from error
    if foreign:
        from llasa.codec.xcodec2 import Xcodec2Codec

        return Xcodec2Codec.load(folder, device)
    from llasa.codec.compact import CompactCodec

    return CompactCodec.load(folder)
