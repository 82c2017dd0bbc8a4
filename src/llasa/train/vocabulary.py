"""Speech in the vocabulary of a language model: its markers and codes, once, and embeddings to begin with.

Must not know: data, trainers. Shapes: V rows of D.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor

from llasa.engines.weights import load_model
from llasa.errors import BundleError
from llasa.prompt import MARKERS, speech_token

MULTIPLE = 64  # rows of the table: a matrix product of an odd size is slow on a GPU
SPREAD = 0.1  # of a new row around those it starts from, in deviations of the old ones


def has_speech(tokenizer: Any, codebook_size: int) -> bool:
    """Return whether a tokenizer has the markers and exactly these codes already; none: it has no codes.

    Raises:
        BundleError: it has some of them, or another number of codes.
    """
    known = tokenizer.get_vocab()
    codes = sum(speech_token(code) in known for code in range(codebook_size))
    one_more = speech_token(codebook_size) in known
    if codes == 0 and not one_more:
        return False
    if codes < codebook_size or one_more or not all(marker in known for marker in MARKERS):
        raise BundleError(
            f"Growing a vocabulary: found {codes} of {codebook_size} codes{' and more' if one_more else ''}, "
            f"and {sum(m in known for m in MARKERS)} of {len(MARKERS)} markers. Use the codec that the model "
            "was trained with, or a base model without speech."
        )
    return True


def grow(base: Path, levels: Sequence[int], out: Path, seed: int = 0) -> bool:
    """Write a causal LM with markers and codes in its vocabulary, in Hugging Face layout.

    Old rows stay as they are, bit by bit. A model that has them already is written as it is.

    Args:
        base: folder of the model and its tokenizer. levels: of the codec, dimension 0 least significant.
        out: folder to write.

    Returns:
        Whether anything was added.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    model: Any = load_model(base, "auto")
    size = math.prod(levels)
    grown = not has_speech(tokenizer, size)
    if grown:
        names = (*MARKERS, *map(speech_token, range(size)))
        first = len(tokenizer)
        tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in names])
        torch.manual_seed(seed)
        # All rows up to `first` are kept, also those that the base held in reserve.
        model.resize_token_embeddings(
            max(len(tokenizer), model.config.get_text_config().vocab_size),
            pad_to_multiple_of=MULTIPLE, mean_resizing=False,
        )  # fmt: skip
        for weight in _tables(model):
            begin(weight, first, levels)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return grown


def _tables(model: Any) -> list[Tensor]:
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return [embedding] if head is embedding else [embedding, head]


def begin(weight: Tensor, first: int, levels: Sequence[int]) -> None:
    """Start the rows of markers and codes, in place, around the mean of the rows before them.

    Args:
        weight: [V, D]. first: row of the first marker; the rows before it are old.
        levels: of the codec.
    """
    with torch.no_grad():
        old = weight[:first].float()
        mean, std = old.mean(0), float((old - old.mean(0)).std())
        noise = torch.randn(len(weight) - first, weight.shape[1]) * SPREAD * std
        codes = first + len(MARKERS)
        weight[first:] = (mean + noise).to(weight.dtype)
        grid = digit_sums(levels, weight.shape[1]) * std + mean
        weight[codes : codes + len(grid)] = grid.to(weight.dtype)


def digit_sums(levels: Sequence[int], width: int) -> Tensor:
    """Return a vector a code, [codes, width] of standard deviation 1: sums of one vector per FSQ digit.

    Neighbours on the grid start alike.

    Args:
        levels: of the codec, dimension 0 least significant.
    """
    codes = torch.arange(math.prod(levels))
    total = torch.zeros(len(codes), width)
    for size in levels:
        digit, codes = codes % size, codes // size
        # A random walk over the digit's values keeps close values close.
        steps = torch.randn(size, width).cumsum(0)
        total = total + (steps - steps.mean(0))[digit]
    return total / total.std()
