"""Texts that nothing is trained on: a file's, one a line, or the built-in ones. Must not know who says them.

The built-in lines are our own, in English, of 3 to 16 words, which is what is said in one go.
"""

from importlib import resources
from pathlib import Path

import numpy as np

from llasa.errors import ConfigError


def texts_in(path: Path | None, doing: str) -> list[tuple[int, str]]:
    """Return the lines of a file that are not empty, each with its number; the built-in ones if None.

    Args:
        doing: opens the message of an error.

    Raises:
        ConfigError: the file is missing or no UTF-8.
    """
    if path is None:
        written = resources.files("llasa.data").joinpath("heldout.txt").read_text("utf-8")
    else:
        try:
            written = path.read_text("utf-8-sig")
        except OSError as error:
            found = f"the system says: {error.strerror}"
            raise ConfigError(f"{doing} '{path}': {found}. Check the path.") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{doing} '{path}': it is not UTF-8. Save it as UTF-8.") from error
    lines = enumerate((line.strip() for line in written.split("\n")), 1)
    return [(number, line) for number, line in lines if line]


def spread(count: int, most: int) -> list[int]:
    """Return places of `count` things, evenly spread; all of them if there are no more than `most`."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()
