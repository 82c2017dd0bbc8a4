"""`llasa train letters`: a pronouncing lexicon and the letter-to-sound model for words outside it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from llasa.cli.terminal import JsonOption, emit, examples, note

EPILOG = examples(
    "llasa train letters my-phones",
    "llasa train letters my-phones --lexicon words.txt --epochs 20",
)


def letters(
    folder: Annotated[Path, typer.Argument(help="Folder to write, as a bundle's `phones`.")],
    lexicon: Annotated[
        Path | None,
        typer.Option(help="Lines of a word and its ARPAbet phones, as in CMUdict; default: pocketsphinx's."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the words; about 12 s each.")] = 12,
    held_out: Annotated[float, typer.Option(min=0.001, max=0.5, help="Share of words to measure on.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Of split, first weights and order.")] = 0,
    json: JsonOption = False,
) -> None:
    """Write lexicon.txt.gz and letters.safetensors, and tell how words outside the lexicon come out."""
    from llasa.train.letters import read_dictionary, train_letters, write_lexicon

    known = read_dictionary(lexicon)
    folder.mkdir(parents=True, exist_ok=True)
    write_lexicon(known, folder / "lexicon.txt.gz")
    report = train_letters(known, folder / "letters.safetensors", seed, epochs=epochs, held_out=held_out)
    if json:
        return emit({"output": folder, "lexicon_words": len(known)} | asdict(report))
    found = f"{report.word_accuracy:.1%} of {report.words} unseen words right"
    note(f"{found}, phone error rate {report.phone_error_rate:.1%}")
    print(folder)
