"""Builds the small tokenizers of models trained from nothing: one symbol, one id.
Knows no model and no sound.

Ids: text symbols, unknown, padding, the markers in their published order, speech tokens by code. Padding rows
that round a model's table up are the model's concern.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

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
