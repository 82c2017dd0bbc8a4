"""Folders that one process at a time works in, and what a killed one leaves there."""

import os
from pathlib import Path

import pytest

from llasa.errors import ConfigError
from llasa.held import hold, scratch


@pytest.mark.fault("R16")
def test_one_at_a_time_and_nothing_is_left(tmp_path: Path) -> None:
    place = tmp_path / "out"
    with pytest.raises(ZeroDivisionError), scratch(place, "Making") as work:
        (work / "half").write_bytes(b"half")
        found = rf"Making: process {os.getpid()} on .* is writing there. Wait for it, or end it."
        with pytest.raises(ConfigError, match=found), scratch(place, "Making"):
            pass
        raise ZeroDivisionError
    assert not [*tmp_path.iterdir()]


def test_what_a_killed_process_left_is_gone(tmp_path: Path) -> None:
    left = tmp_path / ".out.part" / "made" / "deep"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"half")
    with scratch(tmp_path / "out", "Making") as work:
        assert not [*work.iterdir()]
    (tmp_path / "sub").mkdir()
    for name in (".0123456789abcdef.part", "sub/.0123456789abcdef.part", "kept"):
        (tmp_path / name).write_bytes(b"half")
    hold(tmp_path, "Making").release()
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".lock", ".owner", "kept", "sub"]


def test_a_folder_is_not_made_for_a_misspelt_place(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), scratch(tmp_path / "gone" / "out", "Making"):
        pass


def test_a_lock_that_cannot_be_told_of_is_given_back(tmp_path: Path) -> None:
    (tmp_path / ".owner").mkdir()
    with pytest.raises(OSError) as caught:
        hold(tmp_path, "Making")
    (tmp_path / ".owner").rmdir()
    hold(tmp_path, "Making").release()
    assert "owner" in str(caught.value)  # what holds its frames is alive till here


def test_what_somebody_else_put_there_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, draft = tmp_path / "mine", tmp_path / ".out.part"
    mine.write_text("keep")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".owner").symlink_to(mine)
    hold(tmp_path / "elsewhere", "Making").release()
    assert mine.read_text() == "keep"
    draft.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="not yours"), scratch(tmp_path / "out", "Making"):
        pass
    draft.unlink()
    draft.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: draft.stat().st_uid + 1)
    with pytest.raises(ConfigError, match="not yours"), scratch(tmp_path / "out", "Making"):
        pass


def test_no_one_else_can_reach_into_a_draft(tmp_path: Path) -> None:
    with scratch(tmp_path / "out", "Making") as work:
        assert work.parent.stat().st_mode & 0o077 == 0
