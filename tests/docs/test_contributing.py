"""The scorer that CONTRIBUTING.md shows, run by the command it shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

SHOWN = Path(__file__).parents[2] / "CONTRIBUTING.md"


def test_the_scorer_in_20_lines_runs(tmp_path: Path):
    section = SHOWN.read_text(encoding="utf-8").split("## A scorer in 20 lines")[1].split("\n## ")[0]
    blocks = dict(re.findall(r"^```(\w+)\n(.*?)^```$", section, re.DOTALL | re.MULTILINE))
    assert set(blocks) == {"python", "toml", "bash"}
    (tmp_path / "my_module.py").write_text(blocks["python"], encoding="utf-8")
    (tmp_path / "recipe.toml").write_text(blocks["toml"], encoding="utf-8")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = os.environ | {"PATH": path, "LLASA_HOME": str(tmp_path / "home")}
    shell = ["bash", "-euo", "pipefail", "-c", blocks["bash"]]
    ran = subprocess.run(shell, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "llasa.wav\n" and (tmp_path / "llasa.wav").stat().st_size > 10_000
