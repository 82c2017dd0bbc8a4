"""Italian sentences to learn from: Debian's texts and templates, filtered, one a line, as they are said.

Output: `train.txt` and `heldout.txt`, no sentence in both. Needs Debian packages: see `recipes/italian.sh`.
"""

import argparse
import gzip
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from llasa.errors import InputError
from llasa.text.italian import TONGUE
from llasa.text.normalize import normalize

PACKAGES = "apt-get install fortunes-it debian-faq-it debian-reference-it"
FORTUNES = Path("usr/share/games/fortunes/it")
CHOSEN = ("italia", "definizioni", "formiche", "leggi", "norm", "computer", "zuse", "itatrek", "luke")
MANUALS = (
    Path("usr/share/doc/debian/FAQ/debian-faq.it.txt.gz"),
    Path("usr/share/debian-reference/debian-reference.it.txt.gz"),
)

# Stems of words kept out of the training text (slurs, sex, violence against people).
BLOCKED = re.compile(
    r"\b(cazz|merd|stronz|puttan|troi[ae]|figa|fica\b|culo|coglion|fott|sess|scop[ao]|trombar|tett[ea]|seno\b|orgasm|"
    r"masturb|porc[oah]|bastard|negr|froci|ebre|nazi|hitler|mussolin|stupr|uccid|ucciso|ammazz|suicid|assassin|nud[oaie]\b|"
    r"fuck|shit|bitch|whore|rape|kill|murder|jew|breast|pene\b|vagin|eroti|prostitut|pisci|scorregg|mignott|minchi|handicap)",
    re.IGNORECASE,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split(" "))


# At least one of these is in nearly every Italian sentence, and none of the others.
ITALIAN = _words(
    "il lo la i gli le un uno una di del della dei delle che non è per con si al alla nel nella da in a e o "
    "se ma più come sono ho hai ha mi ti ci vi l'ha c'è questo quella"
)
ENGLISH = _words("the of and to is that for with this you are not have by on your from it be will")
APOCOPES = _words("po mo di fa va sta da be to ca gua")
SUBJECTS = (
    "Maria", "Il dottor Rossi", "La signora Bianchi", "Mio fratello", "Nostra zia", "Il vicino di casa",
    "Giovanni", "La maestra", "Un vecchio amico", "Chiara", "Il panettiere", "La ragazza con l'ombrello",
    "Quel signore alto", "Il nonno di Paolo", "La guida del museo", "L'ingegnere", "Il capitano della nave",
    "Mia cugina Giulia",
)  # fmt: skip
VERBS = (
    "ha comprato", "cercava", "ha trovato", "porterà", "vorrebbe vedere", "ha venduto", "ha dimenticato",
    "aspetta", "ha scelto", "preparava", "ha perso", "ci ha mostrato", "conosce bene", "ha disegnato",
    "ripeterà", "ha descritto",
)  # fmt: skip
OBJECTS = (
    "{n} libri", "una bicicletta rossa", "il biglietto del treno", "la chiave di casa",
    "un mazzo di fiori gialli", "{n} bottiglie d'acqua", "il giornale di {day}", "una lettera per {name}",
    "la strada per {place}", "un quadro antico", "{n} sedie di legno", "gli occhiali da sole",
    "la valigia più grande", "una torta di mele", "il cane del guardiano", "{n} fogli di carta",
    "lo zaino verde", "un piatto di gnocchi", "la sciarpa di lana", "l'orologio della stazione",
)  # fmt: skip
WHERE = (
    "a {place}", "vicino alla chiesa", "dietro la scuola", "in cima alla collina", "sotto il ponte",
    "al mercato di {place}", "nella piazza grande", "lungo il fiume", "accanto alla finestra",
    "nel giardino degli zii", "sul treno per {place}", "davanti al teatro", "in mezzo al bosco",
    "sulla spiaggia", "nell'ufficio postale",
)  # fmt: skip
WHEN = (
    "{day} mattina", "alle {time}", "il {dayno} {month}", "nel {year}", "ieri sera", "prima di cena",
    "ogni estate", "durante la pioggia", "da ragazzo", "dopo il lavoro", "la settimana prossima", "all'alba",
    "una volta all'anno",
)  # fmt: skip
OTHERS = (
    "Quanto costa il biglietto per {place}?", "A che ora parte il treno per {place}?",
    "Sono le {time}, dobbiamo andare.", "Il conto è di {money}, grazie.",
    "Circa il {percent} degli studenti abita a {place}.", "{name}, dove hai messo le chiavi?",
    "Perché non vieni con noi {day}?", "Il museo chiude alle {time}.",
    "{name} è nata il {dayno} {month} {year}.", "Chiami il numero {n}, per favore.",
    "La temperatura oggi è di {small} gradi.", "Ci sono {n} chilometri da {place} a {place2}.",
    "Che bella giornata!", "Ha vinto il {ordinal} premio.", "Chi ha lasciato la porta aperta?",
    "Vorrei un caffè e {small} cornetti.", "Il {percent} di sconto vale fino al {dayno} {month}.",
    "Nel {year} la città contava {n} abitanti.", "Buongiorno, signora {name2}, come sta?",
    "Abitiamo al {ordinal} piano, scala B.", "Sai già se {name} verrà alla festa?",
)  # fmt: skip
NAMES = ("Anna", "Luca", "Francesca", "Matteo", "Elena", "Davide", "Sofia", "Giorgio", "Beatrice", "Andrea")
SURNAMES = ("Conti", "Ferrari", "Gallo", "Moretti", "Esposito", "Marchetti", "Zanella")
PLACES = (
    "Roma", "Milano", "Napoli", "Torino", "Palermo", "Genova", "Bologna", "Firenze", "Venezia", "Verona",
    "Trieste", "Perugia", "Cagliari", "Lecce", "Ancona", "Siena", "Bergamo", "Salerno", "Aosta", "Pescara",
)  # fmt: skip
DAYS = ("lunedì", "martedì", "mercoledì", "giovedì", "venerdì", "sabato", "domenica")


def filled(rng: random.Random, template: str) -> str:
    """Return a template with its places filled by chance."""
    place, place2 = rng.sample(PLACES, 2)
    money = f"{rng.randint(2, 400)}{rng.choice(('', ',50', ',20', ',99'))} €"
    return template.format(
        n=rng.randint(*rng.choice(((2, 20), (21, 99), (100, 999), (1000, 20000)))), small=rng.randint(2, 38),
        name=rng.choice(NAMES), name2=rng.choice(SURNAMES), place=place, place2=place2, day=rng.choice(DAYS),
        dayno=rng.randint(1, 28), month=rng.choice(TONGUE.months), year=rng.randint(1500, 2030),
        time=f"{rng.randint(2, 23)}:{rng.choice((0, 5, 10, 15, 20, 30, 40, 45)):02d}", money=money,
        percent=f"{rng.randint(2, 99)}%", ordinal=f"{rng.randint(1, 12)}º",
    )  # fmt: skip


def templates(count: int, seed: int) -> Iterator[str]:
    """Yield `count` sentences of everyday life, with numbers, dates, names and questions."""
    rng = random.Random(seed)
    for _ in range(count):
        if rng.random() < 0.3:
            yield filled(rng, rng.choice(OTHERS))
            continue
        said = f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(OBJECTS)} {rng.choice(WHERE)}"
        yield filled(rng, f"{said} {rng.choice(WHEN)}{rng.choice('...?!')}")


def accented(text: str) -> str:
    """Return a text with the accents that typists without them wrote as apostrophes: "perche'", "E'"."""

    def accent(match: re.Match[str]) -> str:
        word = match[1] + match[2]
        if word.lower() in APOCOPES:
            return match[0]
        acute = word.lower().endswith(("che", "tre", "ne")) and len(word) > 2
        return match[1] + match[2].translate(
            str.maketrans("aeiouAEIOU", "àéìòùÀÉÌÒÙ" if acute else "àèìòùÀÈÌÒÙ")
        )

    return re.sub(r"([A-Za-zàèéìòù]*)([aeiouAEIOU])'(?![A-Za-z])", accent, text)


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of running text with empty lines between paragraphs."""
    for paragraph in re.split(r"\n\s*\n|\n%\n", text):
        plain = re.sub(r"\s+", " ", paragraph.split("\n\t\t--")[0])
        yield from (part.strip(' "«»') for part in re.split(r"(?<=[.!?])[\"»]?\s+(?=[\"«]?[A-ZÈÀ])", plain))


def documents(root: Path) -> Iterator[str]:
    """Yield the sentences of Debian's packages under `root`."""
    for name in CHOSEN:
        yield from sentences(accented((root / FORTUNES / name).read_text(encoding="utf-8", errors="replace")))
    for path in MANUALS:
        yield from sentences(gzip.decompress((root / path).read_bytes()).decode("utf-8", "replace"))


def usable(lines: Iterable[str], seen: set[str]) -> Iterator[str]:
    """Yield what is said of those lines that are whole sentences of 3 to 16 words, each once."""
    for line in lines:
        if BLOCKED.search(line) or not re.fullmatch(r"[A-ZÈ][\w\s,.;:'!?%€ºàèéìòù-]{8,110}[.!?]", line):
            continue
        try:
            normal = normalize(line, "it")
        except InputError:
            continue
        words = [word.strip(",.?!") for word in normal.words]
        odd = (len(word) == 1 and word not in "aeioè" for word in words)
        mixed = not ITALIAN & set(words) or ENGLISH & set(words)
        if normal.dropped or not 3 <= len(words) <= 16 or mixed or any(odd):
            continue
        if normal.text not in seen:
            seen.add(normal.text)
            yield normal.text


def main() -> None:
    """Write the sentences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--root", type=Path, default=Path("/"), help="where the Debian packages are unpacked")
    parser.add_argument("--templates", type=int, default=3000)
    parser.add_argument("--heldout", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    needed = (FORTUNES, *MANUALS)
    missing = [str(path) for path in needed if not (args.root / path).exists()]
    if missing:
        raise SystemExit(f"Reading Debian's texts: {', '.join(missing)} not found. {PACKAGES}")
    seen: set[str] = set()
    found = {
        "documents": list(usable(documents(args.root), seen)),
        "templates": list(usable(templates(args.templates, args.seed), seen)),
    }
    lines = [line for part in found.values() for line in part]
    random.Random(args.seed).shuffle(lines)
    args.folder.mkdir(parents=True, exist_ok=True)
    parts = {"heldout": lines[: args.heldout], "train": lines[args.heldout :]}
    for name, part in parts.items():
        (args.folder / f"{name}.txt").write_text("\n".join(part) + "\n", encoding="utf-8")
    print(", ".join(f"{name}: {len(part)}" for name, part in found.items()), f"; {len(lines)} in all")


if __name__ == "__main__":
    main()
