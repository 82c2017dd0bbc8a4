"""One training run of a recogniser: sources, copies, steps, the folder that `ctc:FOLDER` loads.

The same call goes on where a stopped run stands. `OUT/recognizer` is the result; `OUT/state` holds its
states, `OUT/report.json` how well it hears held-out texts, `OUT/rejects.jsonl` the rows of no use.
"""

import json
import os
import shutil
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import torch

from llasa import begun as runs
from llasa import shortage
from llasa.audio import replace_file
from llasa.bundle import load_bundle
from llasa.codec import load_codec
from llasa.codec.base import Codec
from llasa.device import chosen_device
from llasa.errors import InputError
from llasa.recognizers.ctc import CtcModel, CtcRecognizer
from llasa.text.normalize import LANGUAGES
from llasa.text.phones import Phonemizer
from llasa.text.reading import Reader
from llasa.train.codec.crops import write_rejects
from llasa.train.group import join_group, own_device, rank, wait_for_all
from llasa.train.loop import Plan, fit
from llasa.train.recognizer.copies import chosen, copied, place
from llasa.train.recognizer.corpus import Corpus, Line, Material, gather
from llasa.train.recognizer.recipe import Recipe
from llasa.train.recognizer.task import CtcTask
from llasa.weights import sha256

SAVE_EVERY_S = 60.0


def train(recipe: Recipe, changed_ok: bool = False) -> Mapping[str, float] | None:
    """Train, write the recogniser and return its errors on held-out texts, shares of tokens and words.

    changed_ok: go on although the recipe or its data are not what the run began with.

    Returns:
        None in the processes beside the first.

    Raises:
        ConfigError, InputError, BundleError: see `corpus.gather`, the codec's `load` and `runs.start`.
    """
    join_group()
    out, device = Path(recipe.out), chosen_device(recipe.device or own_device())
    shape = recipe.network(())
    material = gather(recipe, _reader(recipe), shape.frame_length / shape.sample_rate)
    block = recipe.copies
    codec, weights = _codec(block.codec) if block else (None, "")
    said = recipe.model_dump(exclude={"out", "device"})
    runs.start(out, {"recipe": said, "data": material.digest, "codec": weights}, changed_ok)
    corpora = {"original": _corpus(recipe, material, material.train, material.held)}
    if block and codec:
        lines = chosen([*material.train, *material.held], block.hours)
        base = Path(block.folder) if block.folder else out / "copies"
        corpora["copy"] = _copies(codec, place(base, weights, lines), lines, recipe, material)
    torch.manual_seed(recipe.seed)
    model = CtcModel(recipe.network(material.tokens)).to(device)
    task = CtcTask(
        model, corpora, recipe.steps, batch_s=recipe.batch_s, learning_rate=recipe.learning_rate,
        held_rows=recipe.held_rows,
    )  # fmt: skip
    fit(task, out / "state", Plan(recipe.steps, recipe.seed, recipe.validate_every, SAVE_EVERY_S))
    return None if rank() else _finish(recipe, task, material)


def _reader(recipe: Recipe) -> Reader:
    if recipe.text_form != "phones":
        return Reader(None, LANGUAGES)
    starter = Path(str(resources.files("llasa") / "assets" / "starter"))
    return Reader(Phonemizer.load(Path(recipe.phones) if recipe.phones else starter / "phones"))


def _corpus(recipe: Recipe, material: Material, train: list[Line], held: list[Line]) -> Corpus:
    rate = recipe.network(()).sample_rate
    return Corpus(train, held, recipe.text_form, rate, material.tokens)


def _copies(codec: Codec, folder: Path, lines: list[Line], recipe: Recipe, material: Material) -> Corpus:
    """Return the lines as copies, which the first process makes."""
    if rank():
        wait_for_all()
    with shortage.told(f"Making copies in '{folder}'", folder):
        made, rejects = copied(codec, lines, folder, recipe.seed)
    if not rank():
        wait_for_all()
    material.rejects += rejects
    held = {line.said for line in material.held}
    train = [line for line in made if line.said not in held]
    if not train:
        raise InputError(
            f"Making copies: {len(made)} clips came of it, none to train on. Raise copies.hours."
        )
    return _corpus(recipe, material, train, [line for line in made if line.said in held])


def _codec(folder: str | None) -> tuple[Codec, str]:
    """Return a codec and the hash of all its weights; its name stands for its encoder's only."""
    if folder is None:
        bundle = load_bundle()
        return bundle.codec, sha256(sorted((bundle.folder / "codec").glob("*.safetensors")))
    return load_codec(folder), sha256(sorted(Path(folder).glob("*.safetensors")))


def _finish(recipe: Recipe, task: CtcTask, material: Material) -> Mapping[str, float]:
    """Write the recogniser, what it hears and what could not be used."""
    out = Path(recipe.out)
    final, draft, aside = (out / name for name in ("recognizer", ".recognizer.part", ".recognizer.old"))
    for left in (draft, aside):
        shutil.rmtree(left, ignore_errors=True)
    size = sum(p.nbytes for p in task.model.parameters())
    with shortage.told(f"Writing the recogniser in '{out}'", final, size):
        CtcRecognizer(task.model.cpu()).save(draft)
        if final.exists():
            os.replace(final, aside)
        os.replace(draft, final)
    shutil.rmtree(aside, ignore_errors=True)
    # What was saved, in half precision, is what is measured.
    task.model.load_state_dict(CtcRecognizer.load(final).model.state_dict())
    measures = dict(task.validate())
    bad = [reject for corpus in task.corpora.values() for reject in corpus.bad.values()]
    write_rejects(out / "rejects.jsonl", [*material.rejects, *bad])
    replace_file(out / "report.json", json.dumps(measures, indent=1).encode() + b"\n")
    return measures
