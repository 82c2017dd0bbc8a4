"""What data preparation, training and serving must withstand: the rows of the table, how often each is tried.

`@pytest.mark.fault("R3")` says that a test proves a row. The small form runs with all tests; `FAULTS=full` is
the large one, `SEED=7` draws other faults, and `TRIAL=12` tries the twelfth alone.
"""

import os
import random
from collections.abc import Sequence

FULL = os.environ.get("FAULTS") == "full"
SEED = int(os.environ.get("SEED", "0"))
_TRIAL = os.environ.get("TRIAL")

# row -> (what comes, what must be)
ROWS = {
    "R1": (
        "kill -9 while preparing, or in any other command that writes",
        "the files of a run that was left alone",
    ),
    "R2": (
        "kill -9 in training",
        "weights, optimizer, random numbers and order bit-equal; one interval lost",
    ),
    "R3": ("kill -9 inside a save", "goes on from the newest whole checkpoint, same weights, same files"),
    "R4": ("the disk is full", "file and bytes named, what was there whole, goes on when there is room"),
    "R5": ("files cut, bits turned", "all seen before use, the file named"),
    "R6": ("bad sound in a corpus", "each a reject with its reason, memory bounded"),
    "R7": ("the same id, sound, text or speaker twice", "one policy, told; nothing on both sides of a split"),
    "R8": ("hostile transcripts", "no marker id from text, bounded time"),
    "R9": ("the reward service dies", "the same candidates are judged, no step counts twice"),
    "R10": ("the reward service hangs", "no wait beyond the deadline + 1 s"),
    "R11": ("the reward service lies", "no value of it used; too many end the run, weights unchanged"),
    "R12": ("groups that teach nothing", "finite, counted, no gradient"),
    "R13": ("losses and gradients that are no numbers", "left out, kept for a look, three end the run"),
    "R14": ("memory runs out", "a clear error"),
    "R15": ("signals", "saved within grace, a second INT at once, goes on to the same weights"),
    "R16": ("clock, locale, a folder without rights, two writers", "the same result, or a clear refusal"),
    "R17": ("going on with something else", "refused, was and is told"),
    "R18": ("other ways to the same numbers", "within tolerance, residuals around zero"),
    "S8": ("the engine fails or hangs", "what was asked fails cleanly, the next request is served"),
    "S14": ("files of earlier versions", "load, or are refused with what to do"),
}


def trials(small: int, full: int) -> Sequence[int]:
    """Return the numbers of the trials to make."""
    return [int(_TRIAL)] if _TRIAL else range(full if FULL else small)


def drawn(name: str, number: int) -> random.Random:
    """Return what draws the fault of a trial; the same for the same seed, name and number."""
    return random.Random(f"{SEED} {name} {number}")


def again(number: int) -> str:
    """Return what repeats a trial, for the message of its failure."""
    return f"SEED={SEED} TRIAL={number}{' FAULTS=full' if FULL else ''}"
