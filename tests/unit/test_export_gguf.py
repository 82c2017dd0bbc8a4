"""Damaged folders are refused by `export_gguf` with an error of ours, and nothing outside them is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llasa.errors import BundleError
from tests.published import build_llasa

pytest.importorskip("gguf", reason="the extra 'gguf' is not installed")
pytest.importorskip("llama_cpp", reason="the extra 'gguf' is not installed")

from llasa.export.gguf import export_gguf

Change = Callable[[dict[str, Any]], object]
CONFIG, TOKENIZER, INDEX = "config.json", "tokenizer.json", "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build_llasa(tmp_path / "model", vocab="small", codebook_size=64)


def edit(path: Path, change: Change) -> None:
    content = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    change(content)
    path.write_text(json.dumps(content), "utf-8")


def setting(**changes: object) -> tuple[str, Change]:
    return CONFIG, lambda config: config.update(changes)


def token(token_id: object, content: str = "<|more|>") -> tuple[str, Change]:
    added = {"id": token_id, "content": content, "special": True}
    return TOKENIZER, lambda table: table["added_tokens"].append(added)


def shard(name: object) -> tuple[str, Change]:
    return INDEX, lambda index: index.update(weight_map={"a": name})


@pytest.mark.parametrize(
    ("file", "change", "found"),
    [
        (*setting(num_attention_heads=0), "is damaged"),
        (*setting(hidden_size=-32), "is damaged"),
        (*setting(num_hidden_layers="x"), "is damaged"),
        (*setting(max_position_embeddings=-5), "is damaged"),
        (*setting(max_position_embeddings=2**40), "is damaged"),
        (*setting(max_position_embeddings=None), "is damaged"),
        (*setting(vocab_size=10**12), "of another shape"),
        (*token(256), "is damaged.*that of another"),
        (*token(-3), "is damaged.*negative"),
        (*token("3"), "is damaged"),
        (*token(0, "\ud800"), "is damaged"),
        (*shard("../model/model.safetensors"), "which is no file of the folder"),
        (*shard("/etc/passwd"), "which is no file of the folder"),
        (*shard(5), "which is no file of the folder"),
    ],
)
def test_damaged_folders_are_refused(folder: Path, file: str, change: Change, found: str) -> None:
    edit(folder / file, change)
    with pytest.raises(BundleError, match=f"Exporting to GGUF: .*{found}"):
        export_gguf(folder, folder.parent / "a.gguf")
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
