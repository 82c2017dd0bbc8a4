"""The model card of an exported folder: what can be read off its files, and what its makers wrote.

Must not know: how a folder comes about. The words of the card are in `card.md.jinja`.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeGuard

from huggingface_hub import ModelCard, ModelCardData
from safetensors import safe_open
from tokenizers import Tokenizer

from llasa import voice
from llasa.checkpoint import CODECS
from llasa.manifest import Manifest, Sampling
from llasa.prompt import FAMILIES, SPEECH_END, Family, speech_token

CARD = "README.md"
LIBRARY = "llasa"
MARKER = "<!-- Export keeps what stands below this line. -->"
TRAINING = ("run.json", "trainer_state.json", "adapter_config.json")
KEPT = ("license", "license_name", "license_link", "language", "base_model", "datasets", "tags")
READS = {
    "phones": "English as phones (`llasa` makes them)",
    "characters": "English in lower case, numbers and signs written out (`llasa` does it)",
    "written": "text as people write it",
}
PUBLISHED = "Published Llasa checkpoints are listed under CC BY-NC 4.0, which forbids commercial use."
_TEMPLATE = Path(__file__).with_name("card.md.jinja")
_WORDS = {
    "bias", "dtype", "init_lora_weights", "lr_scheduler_type", "model_type", "optim", "peft_type",
    "precision", "task_type", "torch_dtype",
}  # fmt: skip
_WORD = re.compile(r"[\w-]{1,40}")
_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

Parts = Literal["lm", "codec", "all"]


class Card(NamedTuple):
    """Front matter and text of a model card."""

    data: dict[str, Any]
    text: str


NO_CARD = Card({}, "")


@dataclass(frozen=True)
class Origin:
    """What the files of a folder cannot tell.

    repo: its id on the Hub. source: the bundle it is made from. parts: what of it. changed: whether its
    language model is another. license, base_model: as the Hub writes them; the makers' card's if None.
    card: the makers' card. training: facts of how the language model came about.
    """

    repo: str
    source: str
    parts: Parts = "all"
    changed: bool = False
    license: str | None = None
    base_model: str | None = None
    card: Card = NO_CARD
    training: Mapping[str, str] = field(default_factory=dict[str, str])


def model_card(folder: Path, manifest: Manifest, lm: Path | None, origin: Origin) -> ModelCard:
    """Return the card of a folder, with front matter as the Hub reads it.

    Args:
        folder: complete but for the card. manifest: of its bundle, sealed or not.
        lm: where in it the language model is, None if it has none.
    """
    data = _data(manifest, origin)
    sealed = (folder / "bundle.toml").is_file()
    facts = {
        "name": " ".join(manifest.name.split()),
        "marker": MARKER,
        "words": _own_words(origin),
        "repo": origin.repo,
        "source": origin.source,
        "changed": origin.changed,
        "parts": list(_parts(folder, manifest, lm, origin.parts)),
        "speaks": origin.parts == "all",
        "codec": manifest.codec.source if not sealed and _is_id(manifest.codec.source) else None,
        "usual_codec": sealed or manifest.codec.source in CODECS.values(),
        "sealed": sealed,
        "voices": _voices(folder) if origin.parts == "all" else [],
        "training": [(_cell(key), _cell(value)) for key, value in origin.training.items()],
        "rights": _rights(manifest, data),
        "prompt": None,
    }
    if lm is not None:
        facts |= _prompt(manifest, folder / lm)
        if manifest.lm.text == "written":
            facts["example"] = _example(manifest, folder / lm, lm, origin.repo)
    return ModelCard.from_template(data, template_path=str(_TEMPLATE), **facts)


def read_card(folder: Path) -> Card:
    """Return the card of a bundle as its makers left it, an empty one if there is none."""
    path = folder / CARD
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if not text.startswith("---"):
        return Card({}, text)
    parsed = ModelCard(text, ignore_metadata_errors=True)
    return Card(parsed.data.to_dict(), parsed.text)


def training_facts(*folders: Path) -> dict[str, str]:
    """Return what trainers left of a run in the given folders: numbers, and words under a few known keys."""
    found: dict[str, str] = {}
    for path in (folder / name for folder in folders for name in TRAINING):
        if path.is_file():
            found |= dict(_scalars(_json(path)))
    return found


def base_of(*folders: Path) -> str | None:
    """Return the Hub id that a trainer's files, or the place of a fetched snapshot, name as origin."""
    for folder in folders:
        adapted = _json(folder / "adapter_config.json").get("base_model_name_or_path")
        fetched = re.search(r"models--([\w.-]+?)--([\w.-]+)/snapshots/", folder.absolute().as_posix())
        named = f"{fetched[1]}/{fetched[2]}" if fetched else adapted
        if _is_id(named):
            return named
    return None


def _is_id(name: object) -> TypeGuard[str]:
    return isinstance(name, str) and bool(_ID.fullmatch(name)) and not Path(name).exists()


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _scalars(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        if not _WORD.fullmatch(key):
            continue  # a key can be data too
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) or (
            key in _WORDS and isinstance(value, str) and _WORD.fullmatch(value)
        ):
            yield prefix + key, f"{value:.6g}" if isinstance(value, float) else str(value)


def _data(manifest: Manifest, origin: Origin) -> ModelCardData:
    known = origin.card.data
    kept: dict[str, Any] = {key: known[key] for key in KEPT if known.get(key)}
    if manifest.lm.text != "written":
        known = manifest.lm.languages
        kept.setdefault("language", known[0] if len(known) == 1 else known)
    if origin.license:
        kept = {key: value for key, value in kept.items() if not key.startswith("license")}
        kept["license"] = origin.license
    if origin.base_model:
        kept["base_model"] = origin.base_model
    tags = {"llasa", "text-to-speech", "speech", manifest.codec.kind, *kept.pop("tags", ())}
    return ModelCardData(**kept, library_name=LIBRARY, pipeline_tag="text-to-speech", tags=sorted(tags))


def _own_words(origin: Origin) -> str:
    """Return what the makers wrote, marked as about another model where this one differs."""
    written, mark, below = origin.card.text.partition(MARKER)
    words = (below if mark else written).strip()
    if words and origin.changed:
        return f"## About {origin.source}, which this was made from\n\n{words}"
    return words


def _parts(folder: Path, manifest: Manifest, lm: Path | None, parts: Parts) -> Iterator[tuple[str, str]]:
    if lm is not None:
        yield _place("language model", lm), _model(folder / lm)
    codec = manifest.codec
    name = (
        f"`{codec.name}`" if codec.name else f"{codec.kind} (the checkpoint does not say with which weights)"
    )
    rate = codec.sample_rate / codec.hop_length
    where = f", from `{codec.source}`" if _is_id(codec.source) else ""
    inside = codec.source is None and parts == "all"
    what = f"{codec.codebook_size:,} entries, {rate:g} codes a second, {codec.sample_rate:,} Hz"
    yield _place("codec", Path(codec.path)) if inside else "codec", f"{name}{where}: {what}"
    if parts == "all":
        for label, spec in manifest.recognizers.items():
            yield f"recogniser `{label}`", f"`{spec}`"


def _place(part: str, where: Path) -> str:
    return part if where == Path(".") else f"{part}, `{where.as_posix()}/`"


def _model(folder: Path) -> str:
    count, kinds = 0, set[str]()
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            for key in file.keys():  # noqa: SIM118 - not a mapping
                part = file.get_slice(key)
                count += math.prod(part.get_shape())
                kinds.add(part.get_dtype())
    kind = (_json(folder / "config.json").get("architectures") or ["unknown"])[0]
    return f"{kind}, {count / 1e6:,.1f} million parameters, {' and '.join(sorted(kinds))}"


def _voices(folder: Path) -> list[tuple[str, ...]]:
    found = []
    for path in sorted((folder / "voices").glob("*.safetensors")):
        one = voice.load(path)
        sound = f"{one.reference.duration_s:.1f} s" if one.reference else f"{len(one.codes)} codes"
        found.append(tuple(map(_cell, (one.name, sound, one.source or "not stated", one.consent or "none"))))
    return found


def _cell(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def _family(manifest: Manifest, folder: Path) -> Family:
    return FAMILIES[manifest.lm.family](folder, Tokenizer.from_file(str(folder / "tokenizer.json")))


def _prompt(manifest: Manifest, folder: Path) -> dict[str, Any]:
    family = _family(manifest, folder)
    return {
        "prompt": f"{family.head}TEXT{family.tail}CODES",
        "reads": READS[manifest.lm.text],
        "separator": f"`{manifest.lm.separator}`" if manifest.lm.separator.strip() else "one space",
        "last_code": manifest.codec.codebook_size - 1,
        "max_length": manifest.lm.max_length,
        "sampling": list(manifest.sampling.model_dump(exclude_none=True).items()),
    }


def _example(manifest: Manifest, folder: Path, lm: Path, repo: str) -> str:
    family, drawn = _family(manifest, folder), _drawn(manifest.sampling)
    place = f'"{repo}"' if lm == Path(".") else f'"{repo}", subfolder="{lm.as_posix()}"'
    return f"""from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({place})
model = AutoModelForCausalLM.from_pretrained({place})
prompt = {family.head!r} + "Hello there." + {family.tail!r}
ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
end = tokenizer.convert_tokens_to_ids("{SPEECH_END}")
made = model.generate(
    ids, max_length={manifest.lm.max_length}, eos_token_id=end,
    {", ".join(f"{key}={value}" for key, value in drawn.items())},
)
first = tokenizer.convert_tokens_to_ids("{speech_token(0)}")
codes = [id - first for id in made[0, ids.shape[1] :].tolist() if id >= first]"""


def _drawn(sampling: Sampling) -> dict[str, object]:
    """Return how to draw alike, in transformers' words."""
    keys = {"repetition_penalty"} | ({"temperature", "top_p", "top_k"} if sampling.temperature else set())
    return {"do_sample": sampling.temperature > 0, **sampling.model_dump(include=keys)}


def _rights(manifest: Manifest, data: ModelCardData) -> str:
    stated = f"Licence of this model: {data.license}." if data.license else "No licence is stated."
    base = data.base_model if isinstance(data.base_model, str) else ", ".join(data.base_model or ())
    found = [stated, f"It was made from {base}, whose licence holds too." if base else ""]
    if manifest.codec.kind != "compact":
        found.append(f"The codec's licence holds for the codec. {PUBLISHED}")
    found.append("Written by `llasa export hf`; what stands at the end, its makers wrote.")
    return " ".join(filter(None, found))
