"""Sentences to learn from: Debian's text packages, templates and an optional file,
filtered and without the held-out list.

Output: one raw sentence a line, shuffled by a fixed seed.
Needs the Debian packages that `recipes/starter.sh` installs.
"""

import argparse
import gzip
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from llasa.text.normalize import normalize

WORDNET = Path("/usr/share/wordnet")
FORTUNES = Path("/usr/share/games/fortunes")
DOCUMENTS = (Path("/usr/share/doc/anarchism/html"), Path("/usr/share/doc/debian-handbook/html/en-US"))
PACKAGES = "apt-get install wordnet-base fortunes anarchism debian-handbook dict-jargon dict-foldoc"
DICTIONARIES = (Path("/usr/share/dictd/jargon.dict.dz"), Path("/usr/share/dictd/foldoc.dict.dz"))

# Stems of words kept out of the training text (slurs, sex, violence against people).
BLOCKED = re.compile(
    r"\b(fuck|shit|cunt|cock|dick|bitch|whore|slut|nigg|fag|rape|rapi|porn|penis|vagina|breast|nipple|sex|"
    r"masturbat|orgas|semen|anal|anus|ass\b|arse|bastard|nazi|hitler|jew|suicid|murder|kill|negro|coitus|genital|"
    r"copulat|prostitut|erotic|nude|naked|testic|scrot|urin|feces|faec|turd|piss)",
    re.IGNORECASE,
)
NAMES = [
    "Alice Brown", "Peter Grant", "Maria Lopez", "Doctor Wells", "James Carter", "Emma", "Oliver",
    "Sarah Kim", "Tom", "Mrs. Hill", "Mr. Young",
]  # fmt: skip
PLACES = [
    "London", "Boston", "Paris", "Chicago", "Berlin", "Madrid", "Ohio", "Texas", "Rome", "Cairo", "Dublin",
    "Denver", "Oslo", "Kansas", "Kenya",
]  # fmt: skip
THINGS = [
    "tickets", "boxes", "books", "letters", "apples", "chairs", "students", "miles", "people", "pages",
    "houses", "stars", "coins", "bottles", "dogs",
]  # fmt: skip
MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
]  # fmt: skip
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
QUESTIONS = (
    "Where did {name} put the {n} {things}?", "How many {things} are there in {place}?",
    "Is {name} coming on {day}?", "Why does the train to {place} leave at {time}?",
    "When will {name} arrive in {place}?", "Did you pay {money} for it?",
    "Can you call me at {time} tomorrow?", "Who sold {n} {things} for {money}?", "What happened in {year}?",
    "Would {name} like to visit {place} in {month}?", "Was it {percent} or more?",
    "Have you seen the {ordinal} one?", "Do we need {n} {things} by {day}?",
    "Which of the {n} {things} is yours?", "Are you from {place}, {name}?",
)  # fmt: skip
STATEMENTS = (
    "{name} was born on {month} {dayno}, {year}.", "The meeting starts at {time} on {day}.",
    "It cost {money} in {year}.", "There were {n} {things} in {place}.",
    "{name} moved to {place} in {year}.", "About {percent} of the {things} were lost.",
    "She came {ordinal} out of {n}.", "The bus leaves {place} at {time}.",
    "We sold {n} {things} for {money} each.", "On {month} {dayno}, {name} called from {place}.",
    "He ran {n} miles in {small} hours.", "Chapter {small}, page {n}.",
    "Call {name} before {time}, please.", "It is the {ordinal} of {month}.",
    "The price rose by {percent} in {year}.",
)  # fmt: skip


def _fill(rng: random.Random, template: str) -> str:
    n = rng.choice((rng.randint(2, 20), rng.randint(21, 99), rng.randint(100, 999), rng.randint(1000, 20000)))
    k = rng.randint(1, 31)
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(k % 10 if k not in (11, 12, 13) else 0, "th")
    minute = rng.choice((0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55))
    return template.format(
        name=rng.choice(NAMES), place=rng.choice(PLACES), things=rng.choice(THINGS), n=n,
        small=rng.randint(2, 12), month=rng.choice(MONTHS), day=rng.choice(DAYS), dayno=rng.randint(1, 31),
        year=rng.randint(1750, 2030),
        time=f"{rng.randint(1, 12)}:{minute:02d} {rng.choice(('am', 'pm'))}", ordinal=f"{k}{suffix}",
        money=f"${rng.choice((rng.randint(1, 99), rng.randint(100, 5000)))}"
        f"{rng.choice(('', '.50', '.25', '.99'))}",
        percent=f"{rng.randint(1, 99)}%",
    )  # fmt: skip


def templates(count: int, seed: int) -> Iterator[str]:
    """Yield `count` sentences with numbers, dates, names and questions."""
    rng = random.Random(seed)
    for _ in range(count):
        yield _fill(rng, rng.choice(QUESTIONS + STATEMENTS))


def wordnet() -> Iterator[str]:
    """Yield WordNet's glosses and examples."""
    for path in sorted(WORDNET.glob("data.*")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if "|" in line:
                gloss = line.split("|", 1)[1].strip()
                yield from (part.strip().strip('"').rstrip(";") for part in re.split(r';(?=\s*")|;\s', gloss))


def fortunes() -> Iterator[str]:
    """Yield the sentences of the fortune files."""
    for path in sorted(p for p in FORTUNES.iterdir() if not p.suffix and p.is_file()):
        yield from _sentences(path.read_text(encoding="utf-8", errors="replace").replace("\n%\n", "\n\n"))


def documents() -> Iterator[str]:
    """Yield the sentences of the HTML books."""
    for folder in DOCUMENTS:
        for path in sorted(folder.rglob("*.html")):
            page = path.read_text(encoding="utf-8", errors="replace")
            page = re.sub(r"(?s)<(script|style|pre|head).*?</\1>|</?(p|h\d|li|div|td)\b[^>]*>", "\n\n", page)
            yield from _sentences(re.sub(r"<[^>]+>", " ", page))


def dictionaries() -> Iterator[str]:
    """Yield the sentences of the jargon files."""
    for path in DICTIONARIES:
        text = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
        yield from _sentences(text.replace("{", "").replace("}", ""))


def _sentences(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        yield from re.split(r"(?<=[.?!])\s+(?=[A-Z])", " ".join(paragraph.split()))


def key(line: str) -> str:
    """Return what two lines must differ in to count as different: their letters and digits."""
    return " ".join(re.findall(r"[a-z0-9']+", line.lower()))


def spoken_key(line: str) -> str:
    """Return the key of a line as spoken: "Dr. Hill paid $5" has that of "doctor hill paid five dollars"."""
    return key(normalize(line).text)


def usable(
    lines: Iterable[str], lexicon: set[str], seen: set[str], words: tuple[int, int] = (3, 16)
) -> Iterator[str]:
    """Yield the lines that are plain, short, speakable by the lexicon,
    clean and not in `seen` (which grows).
    """
    for line in lines:
        found = key(line)
        if found in seen or not words[0] <= len(found.split()) <= words[1] or len(line) > 110:
            continue
        if (
            re.search(r"[^A-Za-z' ,.?!;:-]", line)
            or re.search(r"[A-Z]{2}|\b[b-hj-z]\b", line)
            or BLOCKED.search(line)
        ):
            continue
        if all(word in lexicon for word in found.replace("-", " ").split()):
            seen.add(found)
            yield line


def cmudict() -> set[str]:
    """Return the words of the dictionary inside the pocketsphinx package."""
    import pocketsphinx

    path = Path(pocketsphinx.get_model_path()) / "en-us" / "cmudict-en-us.dict"
    return {line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.split()}


def main() -> None:
    """Write the sentences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--heldout", type=Path, default=Path("tests/data/heldout.txt"), help="lines never to train on"
    )
    parser.add_argument("--text", type=Path, action="append", default=[], help="more sentences, one a line")
    parser.add_argument("--templates", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    missing = [str(path) for path in (WORDNET, FORTUNES, *DOCUMENTS, *DICTIONARIES) if not path.exists()]
    if missing:
        raise SystemExit(f"Reading Debian's texts: {', '.join(missing)} not found. {PACKAGES}")
    held = args.heldout.read_text(encoding="utf-8").splitlines()
    lexicon, seen = cmudict(), {key(line) for line in held} | {spoken_key(line) for line in held}
    sources = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in args.text}
    sources |= {
        "wordnet": wordnet(),
        "fortunes": fortunes(),
        "documents": documents(),
        "dictionaries": dictionaries(),
    }
    lines: list[str] = []
    for name, source in sources.items():
        kept = list(usable(source, lexicon, seen))
        lines += kept
        print(f"{name}: {len(kept)} sentences")
    filled = dict.fromkeys(
        line for line in templates(args.templates, args.seed) if not {key(line), spoken_key(line)} & seen
    )
    lines += filled
    print(f"templates: {len(filled)} sentences; {len(lines)} in all")
    random.Random(args.seed).shuffle(lines)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    draft = args.out.with_suffix(".part")
    draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
    draft.replace(args.out)


if __name__ == "__main__":
    main()
