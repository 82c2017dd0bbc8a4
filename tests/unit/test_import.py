"""`import llasa` is quick and loads nothing heavy, nor do its values and errors."""

import os
import subprocess
import sys
from pathlib import Path

import llasa

HEAVY = ("torch", "transformers", "fastapi", "gradio", "ray", "matplotlib")
PROGRAM = f"""
import sys, time
began = time.process_time()  # not the clock: other work on the machine must not fail the test
import llasa
spent = time.process_time() - began
llasa.Audio, llasa.Voice, llasa.InputError
print(spent, *(name for name in {HEAVY} if name in sys.modules))
"""


def fresh_import() -> tuple[float, list[str]]:
    """Return the CPU seconds of an import in a fresh process, and the heavy packages it loaded."""
    source = Path(llasa.__file__ or "").parents[1]
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(source)},
    )
    seconds, *loaded = ran.stdout.split()
    return float(seconds), loaded


def test_import_is_quick_and_loads_nothing_heavy():
    imports = [fresh_import() for _ in range(3)]
    assert min(seconds for seconds, _ in imports) <= 0.3
    assert all(loaded == [] for _, loaded in imports)
