"""Models by Hub id: fetched once from a small Hub on loopback, compared with its hashes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from llasa.errors import BundleError, ConfigError
from llasa.hub import Access, check, located
from tests.hub import COMMIT, Hub, serving

NAME = "somebody/tiny-llasa"


def redirect(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Do what HF_ENDPOINT does, which is read when the library is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = tmp_path / "origin"
    (folder / "voices").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (folder / "pytorch_model.bin").write_bytes(b"pickle" * 1000)
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    (folder / "voices" / "ada.safetensors").write_bytes(b"ada")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serving(Hub({NAME: folder}, {"somebody/gated"})) as running:
        running.models["somebody/gated"] = folder
        redirect(monkeypatch, running.url)
        yield running


def test_a_model_is_fetched_once_without_pickles_and_code(hub: Hub) -> None:
    folder = located(NAME, Access())
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert names == ["config.json", "model.safetensors", "voices/ada.safetensors"]
    assert check(folder) == 3
    hub.asked.clear()
    assert located(NAME, Access()) == folder
    assert not [path for path in hub.asked if "/resolve/" in path]


def test_what_was_fetched_is_used_offline(hub: Hub) -> None:
    folder = located(NAME, Access())
    hub.asked.clear()
    assert located(NAME, Access(local_files_only=True)) == folder
    assert hub.asked == []


def test_a_revision_may_stand_in_the_name_or_beside_it(hub: Hub) -> None:
    assert located(f"{NAME}@main", Access()) == located(NAME, Access(revision=COMMIT))
    for name, access in ((f"{NAME}@bad", Access()), (NAME, Access(revision="bad"))):
        with pytest.raises(BundleError, match=r"no revision 'bad'.*commits/main"):
            located(name, access)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_changed_on_disk_is_named(hub: Hub, name: str) -> None:
    folder = located(NAME, Access())
    blob = (folder / name).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"~")
    with pytest.raises(BundleError, match=rf"{name} is not what the Hub sent.*Delete"):
        check(folder)


def test_who_is_not_let_in_is_told_how(hub: Hub) -> None:
    with pytest.raises(
        BundleError, match=r"Accept the conditions on https://huggingface.co/somebody/gated.*hf auth"
    ):
        located("somebody/gated", Access())
    assert located("somebody/gated", Access(token="secret")).is_dir()


@pytest.mark.parametrize(
    ("name", "access", "message"),
    [
        ("nobody/nothing", Access(), "no such model on the Hub, or it is private.*hf auth login"),
        ("somebody/never-fetched", Access(local_files_only=True), "hf download somebody/never-fetched"),
    ],
)
def test_what_is_not_there_is_refused_with_the_next_step(
    hub: Hub, name: str, access: Access, message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        located(name, access)


def test_an_unreachable_hub_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    redirect(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(BundleError, match="once online run: hf download"):
        located(NAME, Access())


def test_a_folder_comes_before_the_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir(parents=True)
    assert located(NAME, Access()) == Path(NAME)
    assert check(tmp_path) == 0
    with pytest.raises(ConfigError, match="found revision 'bad', but it is a folder"):
        located(tmp_path, Access(revision="bad"))
    assert hub.asked == []
