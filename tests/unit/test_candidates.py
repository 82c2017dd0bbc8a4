"""Candidates that are kept: in a folder that is there, wherever it lies."""

import json
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from llasa.cli.candidates import check_folder, keep
from llasa.errors import ConfigError


@pytest.mark.parametrize("place", [".", "link", "new"])
def test_any_empty_folder_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there" if place == "." else tmp_path)
    check_folder(Path(place))
    keep(Path(place), [], "starter")
    assert json.loads((Path(place) / "candidates.json").read_text()) == []
    assert sorted(path.name for path in Path(place).iterdir()) == ["candidates.json", "contact-sheet.png"]
    with pytest.raises(ConfigError, match="not empty"):
        check_folder(Path(place))


def test_what_a_killed_process_left_is_no_reason_to_refuse(tmp_path: Path) -> None:
    (tmp_path / ".candidates.part" / "made").mkdir(parents=True)
    (tmp_path / "contact-sheet.png").write_bytes(b"of the killed one")
    check_folder(tmp_path)
    keep(tmp_path, [], "starter")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["candidates.json", "contact-sheet.png"]
    with pytest.raises(ConfigError, match="not empty"):  # who was slower changes nothing
        keep(tmp_path, [], "starter")
