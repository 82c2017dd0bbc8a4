"""Commands that write files or run long, small: what a child of the zygote is given, and what it must leave.

Each runs in its own folder on what `works.material` made, and goes on, or begins anew, where that stands.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WORDS = ("cat", "hat", "mat", "rat", "bat", "fat", "man", "sun", "red", "big")
JUDGE = '[judge]\n[[judge.scorers]]\nname = "duration"\n[[judge.scorers]]\nname = "repetition"\n'
FILES = {
    "read": {"book.md": "# Book\n\nA cat.\n\n## End\n\nA hat.\n"},
    "evaluate": {
        "evaluate.toml": """
bundle = "{material}/tiny"
recognizers = []
scorers = [{{ name = "repetition" }}]
sets = [{{ lines = 3 }}]
seed_tts_eval = false
[[systems]]
name = "calm"
bundle = "{material}/tiny"
sampling = {{ max_tokens = 12 }}
"""
    },
    "ab": {},
    "mtp": {
        "mtp.toml": """
model = "{material}/tiny"
data = "{material}/prepared"
out = "run"
steps = 3
learning_rate = 5e-3
warmup = 2
validate_every = 2
[rows]
tokens = 300
"""
    },
    "recognizer": {
        "recognizer.toml": """
out = "run"
steps = 3
batch_s = 3.0
held_out = 0.3
validate_every = 2
[model]
blocks = ["gated"]
width = 16
stride = 2
n_fft = 400
n_mels = 40
[copies]
codec = "{material}/codec"
hours = 0.001
[[data]]
path = "{material}/told"
"""
    },
    "codec": {
        "codec.toml": """
kind = "compact"
out = "run"
[[data]]
path = "{material}/sounds"
held_out = 0.5
[model]
n_mels = 40
levels = [4, 4, 4]
encoder_widths = [16, 16]
encoder_depths = [1, 1]
decoder_widths = [16, 16, 16]
decoder_depths = [1, 1, 1]
vocoder_width = 16
vocoder_depth = 1
[[stages]]
name = "sound"
train = ["encoder", "decoder", "vocoder"]
steps = 3
batch = 2
crop_s = 0.16
validate_every = 2
losses = {{ spectral = 1.0 }}
[report]
recognizer = ""
tensorboard = false
clips = 1
final_clips = 2
every = 2
"""
    },
    "dpo": {
        "dpo.toml": """
model = "{material}/tiny"
pairs = "{material}/listened"
held_out = 0.3
out = "run"
dtype = "float32"
[trainer]
learning_rate = 3e-3
max_steps = 3
per_device_train_batch_size = 7
save_steps = 1
eval_steps = 3
logging_steps = 1
bf16 = false
report_to = "none"
"""
    },
    "calibrate": {"judge.toml": JUDGE},
    "voice": {},
    "export": {},
    "gguf": {},
    "say": {},
    "candidates": {"judge.toml": JUDGE},
}  # fmt: skip
TINY, SHORT = "--bundle {material}/tiny", "--set max_tokens=12"
COMMANDS = {
    "read": f"read book.md -o book.m4b --effort 1 {TINY}",
    "evaluate": "evaluate evaluate.toml --out results",
    "ab": f"evaluate ab {{material}}/lines.txt -o listen {TINY}",
    "mtp": "train mtp mtp.toml",
    "recognizer": "train recognizer recognizer.toml",
    "codec": "train codec codec.toml",
    "dpo": "train dpo dpo.toml",
    "calibrate": f"calibrate --judge judge.toml --pairs {{material}}/labelled.jsonl -o new.toml {TINY}",
    "voice": f"voice add me {{material}}/long.wav --text Words --overwrite {TINY}",
    "export": f"export hf -o out --force {TINY}",
    "gguf": f"export gguf -o out.gguf --quant f32 {TINY}",
    "say": f"say Hello. -o out.wav {SHORT} {TINY}",
    "candidates": f"say Hello. -o out.wav --effort 2 --judge judge.toml --candidates tries {SHORT} {TINY}",
}


def material() -> None:
    """Add what commands need, in the folder of `works.material`."""
    import numpy as np
    import soundfile

    from llasa.bundle import load_bundle
    from llasa.pairs import Side, Vote, paired, write_pairs, write_votes

    bundle, draw = load_bundle("tiny"), np.random.default_rng(0)

    def side(first: int) -> Side:
        codes = draw.integers(first, first + 20, 10)
        return Side("tiny", bundle.codec_name, 0, 0, [int(code) for code in codes], "stop")

    pairs = [paired(f"the {word} sat", "ada", "en", side(0), side(40)) for word in WORDS]
    Path("listened").mkdir()
    write_pairs(Path("listened"), pairs)
    write_votes(Path("listened/votes.jsonl"), [Vote(pair.id, "a") for pair in pairs])
    rows = [
        {"text": f"The cat sat on mat number {i}.", "voice": "ada", "codes": codes, "score": score}
        for i in range(8)
        for codes, score in (([7] * 50, 1), ([5, 6] * 25, 2), (list(range(i, i + 50)), 3))
    ]
    Path("labelled.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    Path("told").mkdir()
    told = []
    for number in range(20):
        soundfile.write(f"told/{number}.wav", 0.2 * np.sin(np.arange(16000) * (0.1 + 0.01 * number)), 16000)
        told.append(json.dumps({"audio": f"{number}.wav", "text": f"number {number}"}))
    Path("told/rows.jsonl").write_text("\n".join(told), encoding="utf-8")
    soundfile.write("long.wav", 0.2 * np.sin(np.arange(32000) * 0.1), 16000)


def run(name: str, material: str) -> None:
    """Run a command to its end, which raises SystemExit."""
    import os

    from llasa.cli import main

    os.environ["LLASA_HOME"] = "home"
    for file, text in FILES[name].items():
        Path(file).write_text(text.format(material=material), encoding="utf-8")
    main(COMMANDS[name].format(material=material).split())


_CLOCK = re.compile(r"(_s|_per_second|_runtime|^step_time|rtf|total_s|began|seconds|latency|cost)$|^time/")
_OWN = {"said", "run.lock", "run.json", ".lock", ".owner", "training_args.bin", "metrics.png"}
# `replace_file` beside what a user named: nobody may remove it, for another may be writing just then.
_DRAFT = re.compile(r"\.[0-9a-f]{16}\.part$")
_NAMED = {".", "home/voices"}
# Of states the trainers' own tests tell; which of them are kept depends on when a run was stopped.
_STATES = re.compile(r"(checkpoint|step)-\d+$")


def left(folder: Path) -> dict[str, Any]:
    """Return what a command left, but for clocks."""
    return {
        str(path.relative_to(folder)): _told(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not _is_passed_over(path.relative_to(folder))
    }


def _is_passed_over(path: Path) -> bool:
    draft = _DRAFT.match(path.name) and str(path.parent) in _NAMED
    return path.name in _OWN or bool(draft) or any(map(_STATES.match, path.parts))


def _told(path: Path) -> Any:
    if path.suffix in (".json", ".jsonl"):
        return [_timeless(json.loads(one)) for one in _values(path)]
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _values(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    return iter(text.splitlines() if path.suffix == ".jsonl" else [text])


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items() if not _CLOCK.search(key)}
    return [_timeless(one) for one in value] if isinstance(value, list) else value
