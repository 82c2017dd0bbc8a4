"""Builds the small tokenizers of models trained from nothing: one symbol, one id.
Knows no model and no sound.

Ids: text symbols, unknown, padding, the markers in their published order, speech tokens by code. Padding rows
that round a model's table up are the model's concern.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from llasa.audio import replace_file
from llasa.errors import BundleError, ConfigError
from llasa.prompt import MARKERS, SPEECH_END, speech_token
from llasa.text.phones import PHONES, PUNCTUATION, WORD_BREAK

UNKNOWN = "<unk>"
PAD = "<pad>"


def build_phone_tokenizer(out_dir: str | Path, codebook_size: int = 4096) -> Tokenizer:
    """Write and return a tokenizer that reads phones separated by spaces, e.g. `DH AH | K AE T .`.

    Args:
        out_dir: folder that gets the Hugging Face files; made if missing.
        codebook_size: speech tokens, entries.

    Returns:
        39 ARPAbet phones without stress, the word mark and punctuation from id 0;
        then unknown, padding, markers and speech tokens.
    """
    symbols = (*PHONES, WORD_BREAK, *PUNCTUATION)
    return _build(out_dir, symbols, pre_tokenizers.WhitespaceSplit(), codebook_size)


def build_character_tokenizer(out_dir: str | Path, codebook_size: int = 4096) -> Tokenizer:
    """Write and return a tokenizer that reads single characters: space, apostrophe, a to z, punctuation.

    Args:
        out_dir: folder that gets the Hugging Face files; made if missing.
        codebook_size: speech tokens, entries.

    Returns:
        The characters from id 0; then unknown, padding, markers and speech tokens.
    """
    symbols = (" ", "'", *"abcdefghijklmnopqrstuvwxyz", *PUNCTUATION)
    each_character = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    return _build(out_dir, symbols, each_character, codebook_size)


def extend_tokenizer(folder: str | Path, symbols: Sequence[str], out_dir: str | Path) -> list[str]:
    """Write a tokenizer that reads more symbols than one made here, and return those that are new to it.

    No id moves: the new symbols' are the last, after the speech tokens', so the rows of a model's tables keep
    their meaning and only need to become more.

    Args:
        folder: holds `tokenizer.json` and `tokenizer_config.json`.
        symbols: such as `text.spelling.SYMBOLS["it"]`; those it knows are left as they are.
        out_dir: gets the same two files; may be `folder`.

    Raises:
        BundleError: the tokenizer is missing or damaged, or does not read whole symbols.
        ConfigError: a symbol is empty, has white space in it, or could be read as a marker.
    """
    folder, doing = Path(folder), f"Adding symbols to the tokenizer in '{folder}'"
    odd = [symbol for symbol in symbols if not re.fullmatch(r"[^\s<>|]+", symbol)]
    if odd:
        raise ConfigError(
            f"{doing}: found the symbol {odd[0]!r}. Use signs without spaces, '<', '>' and '|'."
        )
    try:
        content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        config = (folder / "tokenizer_config.json").read_bytes()
        kind, vocabulary = content["model"]["type"], content["model"]["vocab"]
        added = {token["content"]: token["id"] for token in content["added_tokens"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{doing}: {error!r}. Use the tokenizer that came with the model.") from error
    if kind != "WordLevel":
        found = f"found one of kind '{kind}', which reads any text already"
        raise BundleError(f"{doing}: {found}. Leave the symbols out.")
    new = [symbol for symbol in dict.fromkeys(symbols) if symbol not in vocabulary]
    # The library counts added tokens on from the vocabulary's size, unless they are in the vocabulary too.
    vocabulary |= added
    first = 1 + max(vocabulary.values())
    vocabulary |= {symbol: first + place for place, symbol in enumerate(new)}
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    replace_file(Path(out_dir) / "tokenizer.json", text.encode())
    replace_file(Path(out_dir) / "tokenizer_config.json", config)
    return new


def _build(
    out_dir: str | Path, symbols: Sequence[str], splitter: pre_tokenizers.PreTokenizer, codebook_size: int
) -> Tokenizer:
    vocabulary = {symbol: index for index, symbol in enumerate((*symbols, UNKNOWN))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(PAD, special=True, normalized=False)])
    names = (*MARKERS, *(speech_token(code) for code in range(codebook_size)))
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names])
    _save(tokenizer, Path(out_dir))
    return tokenizer


def _save(tokenizer: Tokenizer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPEECH_END,
        "pad_token": PAD,
        "unk_token": UNKNOWN,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
