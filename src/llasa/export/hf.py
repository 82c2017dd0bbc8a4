"""Any bundle as a folder ready for the Hugging Face Hub: its own files, sealed again, and a model card.

Nothing is uploaded, and no file that is not part of the bundle is copied. Must not know: command lines.
"""

import json
import re
import shutil
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import ModelCard

from llasa.bundle import Bundle, seal
from llasa.codec.base import STREAMING
from llasa.errors import BundleError, ConfigError
from llasa.export.card import CARD, LIBRARY, Origin, Parts, base_of, model_card, read_card, training_facts
from llasa.held import scratch
from llasa.manifest import MANIFEST, Manifest
from llasa.shortage import of_room
from llasa.weights import DRAFTS, PICKLES, pickles

MODEL = ("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json")
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "vocab.json", "merges.txt",
)  # fmt: skip
RIGHTS = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
OBJECTS = (*PICKLES, ".pkl", ".pickle", ".joblib", ".npy", ".npz")
REFUSED = (
    *(f"*{suffix}" for suffix in OBJECTS), "*.py", "*.so", "*.dll", "*.sh", "*.env", ".env*", "*.pem",
    "*.key", "*.p12", "*.pfx", "id_rsa*", "id_ecdsa*", "id_ed25519*", ".netrc", ".npmrc", ".pypirc", "token",
    "token.txt",
)  # fmt: skip
SECRET = {"secret", "secrets", "credential", "credentials", "password", "passwords", "passwd"}
# What an export can have written beside what its `bundle.toml` lists; the last are the compact codec's.
WRITTEN = (
    *MODEL, *TOKENIZER, *RIGHTS, CARD, MANIFEST,
    "encoder.safetensors", "decoder.safetensors", "vocoder.safetensors",
)  # fmt: skip
PRIVATE = {"_name_or_path", "name_or_path", "auto_map"}  # where it lay, and code that it would have run


@dataclass(frozen=True)
class Changes:
    """What shall differ from the bundle as it is.

    repo: its id on the Hub, `owner/name`. name: of the new bundle. lm: a trainer's output in Hugging Face
    layout, in place of the language model. adapter: a LoRA folder to merge into it. license, base_model: as
    the Hub writes them. drafts: draft modules of the language model; its own if None, unless it becomes
    another.
    """

    repo: str | None = None
    name: str | None = None
    lm: Path | None = None
    adapter: Path | None = None
    license: str | None = None
    base_model: str | None = None
    drafts: Path | None = None

    @property
    def new_lm(self) -> bool:
        """Whether the language model becomes another."""
        return self.lm is not None or self.adapter is not None


@dataclass(frozen=True)
class Exported:
    """A folder that was written. repo: its id on the Hub, made up where none was given. size: bytes."""

    folder: Path
    repo: str
    files: tuple[str, ...]
    size: int
    license: str | None


def export_hf(
    bundle: Bundle, output: Path, changes: Changes | None = None, parts: Parts = "all", force: bool = False
) -> Exported:
    """Write a bundle, or a part of it, as a folder that can be uploaded as it is.

    Args:
        output: a new or empty folder; if `force`, also an earlier export, which is replaced.
        parts: `lm` and `codec` come without `bundle.toml`, their files in the folder itself. So does `all` of
            a published checkpoint whose codec is on the Hub; one on this disk is taken in, and all sealed.

    Raises:
        ConfigError: the output is in use or cannot be written, or the repository's name is not possible.
        OSError, RuntimeError: the disk is full; see `shortage.told`.
        BundleError: files are missing, do not fit each other, or are such as must not be published.
    """
    changes = changes or Changes()
    repo = _repo(changes, bundle)
    try:
        place = output.resolve()  # `..` has no name of its own
        _check_place(place, bundle, changes)
        _check_output(place, force)
        place.parent.mkdir(parents=True, exist_ok=True)
        with scratch(place, f"Exporting to '{output}'") as work:
            license = _write(bundle, changes, parts, work / "draft", repo)
            _swap(work / "draft", place, work / "before")
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        if of_room(error):  # another folder would not help
            raise
        found = f"the system says: {getattr(error, 'strerror', None) or error}"
        raise ConfigError(f"Exporting to '{output}': {found}. Choose another folder.") from error
    paths = list(_visible(output))
    names = tuple(path.relative_to(output).as_posix() for path in paths)
    return Exported(output, repo, names, sum(path.stat().st_size for path in paths), license)


def _repo(changes: Changes, bundle: Bundle) -> str:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    name = "-".join((changes.name or bundle.name).split()) or "model"
    repo = changes.repo or f"OWNER/{name}"
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(
            f"Naming the repository '{repo}': the Hub does not allow it. "
            "Give --repo OWNER/NAME of letters, digits, '-', '_' and '.'."
        ) from error
    return repo


def _check_place(place: Path, bundle: Bundle, changes: Changes) -> None:
    source = bundle.manifest.codec.source
    sources = [bundle.folder, changes.lm, changes.adapter, changes.drafts, Path(source) if source else None]
    folders = [path.resolve() for path in sources if path is not None and path.exists()]
    clashes = [folder for folder in folders if folder.is_relative_to(place) or place.is_relative_to(folder)]
    if Path.cwd().is_relative_to(place):
        clashes.append(Path.cwd())
    if clashes:
        found = f"it is, holds or lies in '{clashes[0]}', which is read or in use"
        raise ConfigError(f"Exporting to '{place}': {found}. Choose a new folder.")


def _check_output(output: Path, force: bool) -> None:
    doing = f"Exporting to '{output}'"
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{doing}: it is a file. Choose a new folder.")
    if not output.exists() or not any(_visible(output)):
        return
    if read_card(output).data.get("library_name") != LIBRARY:
        raise ConfigError(f"{doing}: it holds other things than an earlier export. Choose a new folder.")
    if not force:
        raise ConfigError(f"{doing}: an earlier export is there. Choose a new folder, or use --force.")
    known = _listed(output) | _matching(output, WRITTEN).keys()
    known |= {f"{DRAFTS}/{name}" for name in _matching(output / DRAFTS, MODEL)}
    known |= {f"{STREAMING}/{name}" for name in _matching(output / STREAMING, WRITTEN)}
    names = [path.relative_to(output).as_posix() for path in _visible(output)]
    others = [name for name in names if name not in known]
    if others:
        listed = ", ".join(others[:8]) + (", ..." if len(others) > 8 else "")
        raise ConfigError(f"{doing}: no export wrote {listed}. Move them away, or choose a new folder.")


def _listed(output: Path) -> set[str]:
    """Return the names that the `bundle.toml` of an earlier export lists, none if it has no such file."""
    path = output / MANIFEST
    try:
        return set(tomllib.loads(path.read_text(encoding="utf-8"))["files"]) if path.is_file() else set()
    except (ValueError, KeyError, TypeError) as error:
        found = f"its {MANIFEST} is damaged ({error!r})"
        raise ConfigError(f"Exporting to '{output}': {found}. Choose a new folder.") from error


def _write(bundle: Bundle, changes: Changes, parts: Parts, draft: Path, repo: str) -> str | None:
    """Fill the draft and return the licence that its card states."""
    trained = [path for path in (changes.lm, changes.adapter) if path is not None]
    files = _files(bundle, changes, parts, draft.with_name("merged"))
    _check_names(files)
    _copy(files, draft)
    manifest = bundle.manifest
    if changes.name:
        manifest = manifest.model_copy(update={"name": changes.name})
    # A published checkpoint whose codec is on the Hub stays as it is: two folders cannot be sealed as one.
    sealed = parts == "all" and bool(manifest.files or _codec(bundle))
    if sealed:
        manifest = _sealed(bundle, draft, _settings(manifest, bool(_codec(bundle))))
    base_model = changes.base_model or (base_of(*trained, bundle.folder) if trained else None)
    facts, own = training_facts(*(trained or [bundle.folder / manifest.lm.path])), read_card(bundle.folder)
    origin = Origin(repo, bundle.name, parts, changes.new_lm, changes.license, base_model, own, facts)
    lm = None if parts == "codec" else Path(manifest.lm.path if sealed else ".")
    card: ModelCard = model_card(draft, manifest, lm, origin)
    card.save(draft / CARD)
    return card.data.to_dict().get("license")


def _sealed(bundle: Bundle, draft: Path, settings: dict[str, object]) -> Manifest:
    try:
        return seal(draft, settings)
    except (BundleError, ConfigError) as error:
        if of_room(error):
            raise
        # The draft is about to go: what does not fit came from the bundle.
        raise type(error)(str(error).replace(str(draft), str(bundle.folder))) from error


def _files(bundle: Bundle, changes: Changes, parts: Parts, merging: Path) -> dict[str, Path]:
    """Return what to copy: name in the new folder -> file."""
    manifest, inside = bundle.manifest, PurePosixPath(bundle.manifest.lm.path)
    whole = {name: bundle.folder / name for name in manifest.files}
    codec = _codec(bundle)
    if parts == "codec":
        if not codec:
            found = f"it is not in the bundle, but in {manifest.codec.source}"
            raise BundleError(f"Exporting the codec of '{bundle.name}': {found}. Publish it from there.")
        return codec
    own = bundle.folder / inside
    model = _model(own, changes, merging) | _drafts(own, changes)
    rights = _matching(bundle.folder, RIGHTS)
    rights = {name: path for name, path in rights.items() if not whole or name in whole}
    if parts == "lm":
        return model | rights
    rest = {name: path for name, path in whole.items() if not _is_model(PurePosixPath(name), inside)}
    placed = {(inside / name).as_posix(): path for name, path in model.items()}
    taken = {(PurePosixPath(manifest.codec.path) / name).as_posix(): path for name, path in codec.items()}
    return rest | rights | placed | taken


def _is_model(name: PurePosixPath, inside: PurePosixPath) -> bool:
    if name.parent == inside / DRAFTS:
        return True
    return name.parent == inside and any(fnmatch(name.name, pattern) for pattern in MODEL + TOKENIZER)


def _codec(bundle: Bundle) -> dict[str, Path]:
    """Return the files of the codec, none if it is on the Hub."""
    part, files = bundle.manifest.codec, bundle.manifest.files
    if part.source is not None or not files:
        folder = Path(part.source) if part.source is not None else bundle.folder / part.path
        streaming = {
            f"{STREAMING}/{name}": path for name, path in _matching(folder / STREAMING, MODEL).items()
        }
        return _matching(folder, MODEL) | streaming
    inside = PurePosixPath(part.path)
    names = [PurePosixPath(name) for name in files if PurePosixPath(name).is_relative_to(inside)]
    return {name.relative_to(inside).as_posix(): bundle.folder / name for name in names}


def _model(own: Path, changes: Changes, merging: Path) -> dict[str, Path]:
    """Return the files of the language model: the newest weights, and the newest tokenizer there is."""
    sources = [own]
    if changes.lm is not None:
        _check_trained(changes.lm)
        sources.insert(0, changes.lm)
    if changes.adapter is not None:
        from llasa.engines.adapters import merged

        sources.insert(0, merged(sources[0], changes.adapter, merging))
    reader = next((folder for folder in sources if (folder / "tokenizer.json").is_file()), own)
    return _matching(sources[0], MODEL) | _matching(reader, TOKENIZER)


def _drafts(own: Path, changes: Changes) -> dict[str, Path]:
    """Return the files of the draft modules, none if the language model has none any more."""
    folder = own / DRAFTS if changes.drafts is None and not changes.new_lm else changes.drafts
    return {f"{DRAFTS}/{name}": path for name, path in _matching(folder, MODEL).items()} if folder else {}


def _check_trained(folder: Path) -> None:
    doing = f"Exporting the language model in '{folder}'"
    found = _matching(folder, MODEL)
    if "config.json" in found and any(name.endswith(".safetensors") for name in found):
        return
    if (folder / "adapter_config.json").is_file():
        raise BundleError(f"{doing}: it is a LoRA adapter. Name it with --adapter.")
    if unsafe := pickles(folder):
        raise BundleError(
            f"{doing}: found only {', '.join(unsafe)}, which can run code when opened. "
            "Save it again with save_pretrained, which writes safetensors."
        )
    raise BundleError(f"{doing}: there is no config.json with model*.safetensors. Name a trainer's output.")


def _matching(folder: Path, patterns: Iterable[str]) -> dict[str, Path]:
    paths = (path for pattern in patterns for path in sorted(folder.glob(pattern)))
    return {path.name: path for path in paths if path.is_file()}


def _check_names(files: Iterable[str]) -> None:
    for name in files:
        last = PurePosixPath(name).name.lower()
        if any(fnmatch(last, pattern) for pattern in REFUSED) or SECRET & set(re.split(r"[\s._-]+", last)):
            raise BundleError(
                f"Exporting '{name}': files of such a name can run code or hold secrets. "
                "Take it out of the bundle and seal it again."
            )


def _copy(files: dict[str, Path], folder: Path) -> None:
    for name, source in files.items():
        if not source.is_file():
            raise BundleError(f"Exporting '{name}': there is no file {source}. Fetch the bundle again.")
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.name in ("config.json", "tokenizer_config.json"):
            target.write_bytes(_public(name, source))
        else:
            shutil.copyfile(source, target)  # follows links: the Hub's cache is made of them


def _public(name: str, source: Path) -> bytes:
    """Return a settings file without what is private: as it is where there is nothing such."""
    content = source.read_bytes()
    try:
        settings = json.loads(content)
    except ValueError as error:
        raise BundleError(f"Exporting '{name}': found no JSON ({error}). Fetch or build it again.") from error
    public = _without_private(settings)
    return content if public == settings else json.dumps(public, indent=2, ensure_ascii=False).encode()


def _without_private(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_private(value) for key, value in content.items() if key not in PRIVATE}
    return [_without_private(value) for value in content] if isinstance(content, list) else content


def _settings(manifest: Manifest, inside: bool) -> dict[str, object]:
    """Return what the bundle is sealed with. inside: whether its codec is in the folder."""
    settings: dict[str, object] = manifest.model_dump(exclude={"format", "files", "codec"}, exclude_none=True)
    kept = {"kind", "path"} if inside else {"kind", "source"}
    codec = manifest.codec.model_dump(include=kept, exclude_none=True)
    return settings | {"codec": codec}


def _swap(draft: Path, output: Path, aside: Path) -> None:
    """Put the draft in place of what is there, or leave all as it was; hidden files stay: a clone's .git.

    What tells an export from other things goes last and comes first, so that what a kill leaves can be told.
    """
    output.mkdir(exist_ok=True)
    moved: list[tuple[Path, Path]] = []
    old, new = list(_visible(output)), [path for path in draft.rglob("*") if path.is_file()]
    signs = [folder / name for folder in (output, draft) for name in (MANIFEST, CARD)]
    old.sort(key=lambda path: signs.index(path) if path in signs else -1)
    new.sort(key=lambda path: -signs.index(path) if path in signs else 1)
    try:
        for start, end, paths in ((output, aside, old), (draft, output, new)):
            for path in paths:
                target = end / path.relative_to(start)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
                moved.append((path, target))
    except BaseException:
        for path, target in reversed(moved):
            target.replace(path)
        raise


def _visible(folder: Path) -> Iterator[Path]:
    """Yield files and links, sorted, without hidden ones and what is in hidden folders."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and (path.is_symlink() or not path.is_dir()):
            yield path
