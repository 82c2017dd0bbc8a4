"""Pronunciations: where they come from, how they are written, and how good the learnt ones are."""

import gzip
from pathlib import Path

import pytest

import llasa.text
from llasa.errors import BundleError, ConfigError, InputError
from llasa.text.normalize import normalize
from llasa.text.phones import PHONES, PUNCTUATION, Phonemizer, read_lexicon
from llasa.train.letters import align, measure, read_dictionary, train_letters, write_lexicon

SHIPPED = Path(llasa.text.__file__).parents[1] / "assets" / "starter" / "phones"
TINY = {
    "a": "AH",
    "b": "B IY",
    "c": "S IY",
    "box": "B AA K S",
    "cat": "K AE T",
    "dog": "D AO G",
    "the": "DH AH",
    "they": "DH EY",
    "do": "D UW",
    "'em": "AH M",
}


@pytest.fixture
def folder(tmp_path):
    lines = "".join(f"{word}\t{phones}\n" for word, phones in TINY.items())
    (tmp_path / "lexicon.txt.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    return tmp_path


@pytest.fixture(scope="module")
def shipped():
    return Phonemizer.load(SHIPPED)


@pytest.mark.parametrize(
    ("text", "phones"),
    [
        ("the cat.", "DH AH | K AE T ."),
        ("cat, the dog? cat!", "K AE T , DH AH | D AO G ? K AE T !"),
        ("a cat", "AH | K AE T"),
        ("a b c", "EY | B IY | S IY"),
        ("the c a", "DH AH | S IY | EY"),
        ("cat a. box", "K AE T | EY . B AA K S"),
        ("a", "AH"),
        ("", ""),
    ],
)
def test_words_and_marks(folder, text, phones):
    assert Phonemizer.load(folder)(text) == phones


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("dog's", "D AO G Z"),
        ("cat's", "K AE T S"),
        ("box's", "B AA K S IH Z"),
        ("dogs'", None),
        ("'cat'", "K AE T"),
        ("they'll", "DH EY AH L"),
        ("they've", "DH EY AH V"),
        ("don't", "D UW AH N T"),
        ("'em", "AH M"),
    ],
)
def test_endings_follow_the_word(folder, word, phones):
    phonemizer = Phonemizer.load(folder)
    if phones is None:
        with pytest.raises(InputError, match="not in the lexicon"):
            phonemizer.say_of(word)
    else:
        assert phonemizer.say_of(word) == phones
        assert phonemizer.source(word) == "lexicon"


def test_overrides_win(folder):
    phonemizer = Phonemizer.load(folder, {"cat": "D  AO G", "llasa": "L AA S AH"})
    assert phonemizer("cat llasa llasa's dog") == "D AO G | L AA S AH | L AA S AH Z | D AO G"
    assert [phonemizer.source(word) for word in ("cat", "llasa's", "dog")] == [
        "override",
        "override",
        "lexicon",
    ]


@pytest.mark.parametrize("phones", ["K AE1 T", "k ae t", "K | T", "", " "])
def test_bad_overrides_are_refused(folder, phones):
    with pytest.raises(ConfigError, match="Use phones out of"):
        Phonemizer.load(folder, {"cat": phones})


@pytest.mark.parametrize("text", ["Cat", "caté", "3", "cat;", "<|s_1|>", "'"])
def test_text_must_be_normalised(folder, text):
    with pytest.raises(InputError, match="normalised"):
        Phonemizer.load(folder)(text)


def test_missing_and_damaged_files_are_bundle_errors(folder):
    with pytest.raises(BundleError, match="Install the bundle again"):
        Phonemizer.load(folder / "nowhere")
    (folder / "letters.safetensors").write_bytes(b"not a model")
    with pytest.raises(BundleError, match="letter-to-sound"):
        Phonemizer.load(folder)
    (folder / "lexicon.txt.gz").write_bytes(gzip.compress(b"a tab is missing"))
    with pytest.raises(BundleError, match="lexicon"):
        read_lexicon(folder / "lexicon.txt.gz")


def test_shipped_files_say_any_word(shipped):
    text = normalize("Dr. Zorblatt's kwyjibos cost $3.50, aren't they blorft? U.S.A. xqz!").text
    tokens = shipped(text).split(" ")
    assert set(tokens) <= {*PHONES, *PUNCTUATION, "|"}
    assert [shipped.source(word) for word in ("doctor", "dog's", "zorblatt", "zorblatt's")] == [
        "lexicon",
        "lexicon",
        "letters",
        "letters",
    ]
    assert shipped.say_of("zorblatt's") == f"{shipped.say_of('zorblatt')} S"
    assert all(shipped.say_of(letter) for letter in "abcdefghijklmnopqrstuvwxyz")


def test_shipped_letters_read_plain_words(shipped):
    letters = shipped._letters
    known = {
        "table": "T EY B AH L",
        "shipping": "SH IH P IH NG",
        "boxes": "B AA K S AH Z",
        "nation": "N EY SH AH N",
    }
    assert measure(letters, known).phone_error_rate < 0.15
    assert (SHIPPED / "letters.safetensors").stat().st_size <= 1_000_000


def test_lexicon_is_built_the_same_each_time(tmp_path):
    pytest.importorskip("pocketsphinx")
    lexicon = read_dictionary()
    for name in ("lexicon.txt.gz", "again.txt.gz"):
        write_lexicon(lexicon, tmp_path / name)
    assert (tmp_path / "lexicon.txt.gz").read_bytes() == (tmp_path / "again.txt.gz").read_bytes()
    assert lexicon == read_lexicon(SHIPPED / "lexicon.txt.gz")
    assert lexicon["read"] == "R EH D"
    assert {phone for phones in lexicon.values() for phone in phones.split()} == set(PHONES)


def test_a_dictionary_of_ones_own_is_read_and_a_strange_one_refused(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text(
        "HELLO  HH AH0 L OW1 # greeting\nhello(2) HH EH L OW\n;;; a comment\nbox B AA1 K S\n", "utf-8"
    )
    assert read_dictionary(path) == {"hello": "HH AH L OW", "box": "B AA K S"}
    path.write_text("ciao tʃ a o\n", "utf-8")
    with pytest.raises(InputError, match="none of ARPAbet's: a, o, tʃ"):
        read_dictionary(path)
    with pytest.raises(InputError, match="Check the file"):
        read_dictionary(tmp_path / "missing.txt")


def test_alignment_gives_every_phone_to_a_letter():
    lexicon = read_lexicon(SHIPPED / "lexicon.txt.gz")
    words = {word: lexicon[word] for word in sorted(lexicon)[::40]} | {"box": "B AA K S"}
    aligned = align(words)
    assert all(" ".join(filter(None, chunks)) == words[word] for word, chunks in aligned.items())
    assert all(len(chunks) == len(word) for word, chunks in aligned.items())
    assert aligned["box"] == ["B", "AA", "K S"]


def test_training_repeats_and_learns(tmp_path):
    lexicon = read_lexicon(SHIPPED / "lexicon.txt.gz")
    words = {word: lexicon[word] for word in sorted(lexicon)[::60]}
    reports = [train_letters(words, tmp_path / name, seed=3, epochs=6) for name in ("one", "two")]
    assert reports[0] == reports[1]
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert reports[0].phone_error_rate < 0.7
