"""What the children of the zygote do, in their own folder: small forms of all that a kill may meet.

Each goes on where a folder stands. What they need (`material`) is made once, in one more child.
"""

import ctypes
import itertools
import json
import os
import random
import resource
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from tests.faults import verbs

# What only some need is imported where it is, so that a run of one row costs its own imports.
WIDTH = 64  # a save then takes about as long as some steps
TEXTS = "the cat\na hat\n"

SFT = """
codec = "{material}/codec"
data = "{material}/prepared"
out = "run"
dtype = "float32"
[scratch]
text = "characters"
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 2
max_length = 200
[rows]
tokens = 300
[trainer]
max_steps = 3
gradient_accumulation_steps = 2
learning_rate = 5e-3
bf16 = false
save_steps = 1
eval_steps = 4
logging_steps = 1
"""

GRPO = """
model = "{material}/tiny"
prompts = "{material}/lines.txt"
out = "run"
dtype = "float32"
[judge]
truncated = 0.3
[[judge.scorers]]
name = "tests.faults.works:Low"
[trainer]
max_steps = 3
max_completion_length = 20
num_generations = 4
per_device_train_batch_size = 4
gradient_accumulation_steps = 2
learning_rate = 1e-3
warmup_steps = 0
temperature = 1.0
bf16 = false
report_to = "none"
save_steps = 1
"""


class Low:
    """Likes the lower half of the codes."""

    name, partial, cost = "low", False, 0

    def score(self, candidates: Any) -> list[Any]:
        """See `Scorer`."""
        from llasa.core import Score

        return [Score(sum(code < 32 for code in one.codes) / len(one.codes)) for one in candidates]


def material() -> None:
    """Make a codec, a prepared folder, a tiny bundle, texts and recordings."""
    from llasa import audio
    from llasa.codec.compact import CompactCodec
    from llasa.data.shards import Header, Row, save
    from tests.conftest import build_tiny_bundle
    from tests.sounds import speechlike

    CompactCodec.random().save(Path("codec"))
    codec, draw = CompactCodec.load(Path("codec")), random.Random(0)
    rows = [
        Row(f"{speaker}-{i}", "some words to say", speaker, "en", 1.0, draw.choices(range(64), k=25))
        for speaker in ("ada", "ben")
        for i in range(40)
    ]
    save(Path("prepared"), {"train": rows[:70], "heldout": rows[70:]}, Header(codec.name, 25.0, 64))
    build_tiny_bundle(Path("tiny"))
    Path("lines.txt").write_text(TEXTS, encoding="utf-8")
    Path("sounds").mkdir()
    for n in range(20):
        audio.write(f"sounds/{n:02}.wav", speechlike(0.4, level=0.1 + n / 50))
    verbs.material()


def clips(folder: str) -> list[Any]:
    """Return the recordings as rows of a source, with rows among them that are rejects for some reason."""
    from dataclasses import replace

    from llasa.core import Clip
    from llasa.data.rejects import Reject

    paths = sorted((Path(folder) / "sounds").glob("*.wav"))
    made: list[Any] = [
        Clip(f"clip-{n}", str(path), f"Ist das größer als {n}?", f"speaker {n % 3}")
        for n, path in enumerate(paths)
    ]
    made[3:3] = [replace(made[0], id="again"), Reject("", "list.csv:7", "malformed", "It has one column.")]
    made[9:9] = [replace(made[5], id="CLIP-1"), replace(made[5], id="gone", audio="gone.wav")]
    made.append(replace(made[2], id="nothing", text="..."))
    return made


def prepare(material: str) -> int:
    """Prepare the recordings in `out`; return how many rows are kept."""
    from llasa.data.encode import Options
    from llasa.data.prepare import prepare as prepared
    from tests.listed import Listed, Plain

    options = Options(shard_rows=4, held_out="speakers", held_out_share=0.2)
    return prepared(Listed(clips(material)), "out", Plain(), options, max_rejects=1.0).kept


def network() -> Any:
    """Return a little Llama with dropout, always the same."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=128, attention_dropout=0.1, **sizes, **heads))


class Task:
    """That network as a task of `loop.fit`."""

    def __init__(self) -> None:
        import torch

        self.model = network()
        self.modules: dict[str, Any] = {"model": self.model}
        self.optimizers: dict[str, Any] = {"adamw": torch.optim.AdamW(self.model.parameters(), 1e-3)}

    def step(self, index: int) -> Mapping[str, float]:
        """See `loop.Task`."""
        import torch

        return {"loss": self.learn(torch.randint(128, (4, 16)))}

    def learn(self, batch: Any) -> float:
        """Take a step; its name is that of no other function, so that steps can be counted."""
        self.model.train()
        loss = self.model(input_ids=batch, labels=batch).loss
        self.optimizers["adamw"].zero_grad()
        loss.backward()
        self.optimizers["adamw"].step()
        return loss.item()

    def validate(self) -> Mapping[str, float]:
        """See `loop.Task`."""
        return {}


def loop(steps: int = 6) -> None:
    """Train with the loop of our own."""
    from llasa.train.loop import Plan, fit

    fit(Task(), Path("run"), Plan(steps, seed=3, validate_every=2, save_every_s=0.0))


def sft(material: str, *settings: str) -> None:
    """Run `llasa train sft`, up to the bundle."""
    _train("sft", SFT.format(material=material), settings)


def grpo(material: str, *settings: str) -> None:
    """Run `llasa train grpo`, up to the bundle."""
    _train("grpo", GRPO.format(material=material), settings)


def _train(verb: str, recipe: str, settings: tuple[str, ...]) -> None:
    from llasa.cli import main

    Path(f"{verb}.toml").write_text(recipe, encoding="utf-8")
    main(["train", verb, f"{verb}.toml", *(word for one in settings for word in ("--set", one))])


def corpus() -> dict[str, str]:
    """Prepare the sounds that lie here, in `out`; return the reason of each that is a reject."""
    from llasa.core import Clip
    from llasa.data.encode import Options
    from llasa.data.prepare import prepare as prepared
    from tests.listed import Listed, Plain

    rows = [Clip(path.stem, str(path), "Some words.") for path in sorted(Path().glob("*.wav"))]
    prepared(Listed(rows), "out", Plain(), Options(shard_rows=4, held_out="none"), max_rejects=1.0)
    lines = Path("out/rejects.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["id"]: row["reason"] for row in map(json.loads, lines)}


def nothing() -> None:
    """Do nothing: what a child takes by itself."""


def odd_clock(work: str, *given: Any) -> None:
    """Work while the clock of the day jumps back an hour each time that somebody looks."""
    ticks = itertools.count(int(time.time()), -3600)
    time.time = lambda: float(next(ticks))
    globals()[work](*given)


def without_rights(work: str, *given: Any) -> None:
    """Work as somebody who may not write to the folder, though root may."""
    _system("capset", ctypes.byref((ctypes.c_uint32 * 2)(0x20080522, 0)), (ctypes.c_uint32 * 6)())
    Path.cwd().chmod(0o500)
    try:
        globals()[work](*given)
    finally:
        Path.cwd().chmod(0o700)


def little_memory(mib: int, work: str, *given: Any) -> None:
    """Work with so much more memory than there is already."""
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (mib << 20), resource.RLIM_INFINITY))
    globals()[work](*given)


def small_disk(work: str, kib: int, *given: Any) -> dict[str, str]:
    """Work on a disk of some size until it is full, then with more room; `kept` is what is there at last.

    Returns what was said when it was full.
    """
    kept = Path("kept").resolve()
    _mount(Path("disk"), kib)
    os.chdir("disk")
    told = {"error": "", "said": ""}
    try:
        globals()[work](*given)
    except SystemExit as error:
        told = {"error": str(error.code), "said": (kept.parent / "said").read_text(encoding="utf-8")[-2000:]}
    except Exception as error:
        told = {"error": type(error).__name__, "said": str(error)}
    if told["error"] not in ("", "0"):
        _system("mount", b"disk", os.fsencode(Path.cwd()), b"tmpfs", 32, b"size=65536k")  # MS_REMOUNT
        with suppress(SystemExit):
            globals()[work](*given)
    shutil.copytree(".", kept)
    return told


def _mount(folder: Path, kib: int) -> None:
    """Put a disk of some size there, which only this process sees."""
    folder.mkdir()
    _system("unshare", 0x20000)  # CLONE_NEWNS
    _system("mount", b"none", b"/", None, 0x44000, None)  # MS_REC | MS_PRIVATE
    _system("mount", b"disk", os.fsencode(folder.resolve()), b"tmpfs", 0, f"size={kib}k".encode())


def _system(name: str, *given: Any) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*given):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def stock(steps: int = 8) -> None:
    """Train with transformers' Trainer as it is, going on from what it takes for its last checkpoint."""
    import torch
    from transformers import Trainer, TrainingArguments

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 22

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            ids = torch.randint(128, (16,), generator=torch.Generator().manual_seed(index))
            return {"input_ids": ids, "labels": ids}

    arguments = TrainingArguments(
        "run/checkpoints", max_steps=steps, save_steps=1, save_total_limit=2, per_device_train_batch_size=4,
        learning_rate=1e-3, report_to=[], disable_tqdm=True, use_cpu=True, seed=3,
    )  # fmt: skip
    run = Trainer(network(), arguments, train_dataset=Rows())
    run.train(resume_from_checkpoint=any(Path("run/checkpoints").glob("checkpoint-*")) or None)
    cast(Any, run.model).save_pretrained("run/lm")


# name of a command -> what runs it
globals().update({name: partial(verbs.run, name) for name in verbs.COMMANDS})
