"""A bundle that reads more languages: symbols for them, and embeddings to begin learning with.

Must not know: data, trainers. Shapes: V rows of D.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llasa.bundle import load_bundle, seal
from llasa.engines.weights import load_model
from llasa.errors import ConfigError
from llasa.manifest import MANIFEST, CodecChoice
from llasa.prompt import Prompt
from llasa.text.spelling import SYMBOLS
from llasa.train.tokenizer import extend_tokenizer
from llasa.train.vocabulary import MULTIPLE, SPREAD

# The English phones that a letter is most often said like: what a model begins to read it as.
_LIKE = (
    "a AA, b B, c K CH, d D, e EH, f F, g G JH, h HH, i IY, j Y, k K, l L, m M, n N, o OW AO, p P, q K, r R, "
    "s S, t T, u UW, v V, w W V, x K S, y Y IY, z Z T S, à AA, è EH, é EY, ì IY, ò AO, ù UW, ä EH, ö ER, "
    "ü UW IY, ß S"
)
LIKE = {symbol: tuple(phones) for symbol, *phones in (entry.split(" ") for entry in _LIKE.split(", "))}


def add_languages(bundle: str | Path, languages: Sequence[str], out: str | Path) -> list[str]:
    """Write a bundle of phones that also reads other languages, and return the symbols that are new to it.

    It speaks what it spoke as before, bit by bit; the new languages have to be learnt. Letters begin as the
    English phones they are most like.

    Args:
        bundle: as in `bundle.load_bundle`. languages: of `text.spelling.SYMBOLS`. out: folder, not there yet.

    Raises:
        ConfigError: a language without symbols, a bundle that does not read phones, or `out` is there.
        BundleError: the bundle is missing or damaged.
    """
    doing, out = f"Adding {', '.join(languages)} to bundle '{bundle}'", Path(out)
    source = load_bundle(bundle)
    symbols = symbols_of(languages, source.manifest.lm.text, doing)
    if out.exists():
        raise ConfigError(f"{doing}: '{out}' is there already. Remove it, or choose another folder.")
    shutil.copytree(source.folder, out, ignore=shutil.ignore_patterns(MANIFEST, "README.md"))
    lm = out / source.manifest.lm.path
    new = extend_tokenizer(lm, symbols, lm)
    prompt = Prompt.load(lm, source.manifest.lm.family, source.prompt.codebook_size)
    _grow(lm, prompt, new)
    settings = source.manifest.model_dump(exclude_none=True, exclude={"format", "files"})
    settings["codec"] = source.manifest.codec.model_dump(
        include=set(CodecChoice.model_fields), exclude_none=True
    )
    known = dict.fromkeys((*source.manifest.lm.languages, *languages))
    settings["lm"]["languages"] = list(known)
    seal(out, settings | {"name": "-".join((source.name, *languages))})
    return new


def symbols_of(languages: Sequence[str], form: str, doing: str) -> list[str]:
    """Return the symbols that languages are written in, for a model that reads text in a form.

    Raises:
        ConfigError: a language without symbols, or a form that is not phones; `doing` opens the message.
    """
    unknown = [language for language in languages if language not in SYMBOLS]
    if unknown or (languages and form != "phones"):
        found = f"language '{unknown[0]}'" if unknown else f"a model that reads {form}"
        raise ConfigError(f"{doing}: found {found}. Use {', '.join(SYMBOLS)} and a model that reads phones.")
    return list(dict.fromkeys(symbol for language in languages for symbol in SYMBOLS[language]))


def _grow(folder: Path, prompt: Prompt, new: Sequence[str]) -> None:
    model: Any = load_model(folder, "auto")
    if prompt.vocab_size > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(prompt.vocab_size, pad_to_multiple_of=MULTIPLE, mean_resizing=False)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    with torch.no_grad():
        for weight in (embedding,) if head is embedding else (embedding, head):
            _begin(weight, prompt, new)
    model.save_pretrained(folder)


def _begin(weight: Tensor, prompt: Prompt, new: Sequence[str]) -> None:
    """Start the rows of new symbols from those of phones they are like, or of all phones; weight [V, D]."""
    phones = {name: _row(prompt, name) for names in LIKE.values() for name in names}
    spread = float(weight[list(phones.values())].float().std(0).mean()) * SPREAD
    noise = torch.Generator().manual_seed(0)  # without it two letters said alike would stay one
    for symbol in new:
        rows = [phones[name] for name in LIKE.get(symbol, phones)]
        start = weight[rows].float().mean(0)
        start = start + spread * torch.randn(start.shape, generator=noise)
        weight[_row(prompt, symbol)] = start.to(weight.dtype)


def _row(prompt: Prompt, symbol: str) -> int:
    [token_id] = prompt.text_ids(symbol)[0]
    return token_id
