"""The CTC recogniser: its texts, likelihoods, decoding and files."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llasa.core import Audio
from llasa.errors import BundleError, InputError
from llasa.recognizers.base import TextForm
from llasa.recognizers.ctc import BLANK, LAYOUTS, MARK, TOKENS, CtcModel, CtcRecognizer, levelled, token_ids


def tone(n_samples: int = 8000) -> Audio:
    return Audio(0.2 * np.sin(np.arange(n_samples) * 0.3).astype(np.float32), 16000)


def read(text: str, form: TextForm) -> list[str]:
    return [TOKENS[form][i - 1] for i in token_ids(text, form)]


def test_phone_texts_become_tokens_and_punctuation_ends_words() -> None:
    assert read("HH AY , DH EH R | M AE N .", "phones") == [
        "HH",
        "AY",
        "|",
        "DH",
        "EH",
        "R",
        "|",
        "M",
        "AE",
        "N",
    ]


def test_character_texts_become_tokens_without_punctuation() -> None:
    assert "".join(read(" it's  a, b? ", "characters")) == "it's a b"


@pytest.mark.parametrize(
    "text, form, found",
    [("hello", "phones", "hello"), ("A cat", "characters", "A"), (" .", "phones", "no tokens")],
)
def test_unreadable_texts_are_named(text: str, form: TextForm, found: str) -> None:
    with pytest.raises(InputError, match=found):
        token_ids(text, form)


def test_the_likelihood_sums_over_all_alignments() -> None:
    recognizer = CtcRecognizer.random(seed=3, text_form="characters")
    sound = tone(4 * recognizer.config.frame_length)
    scores = recognizer._log_probs([sound])[0]
    wanted, total = token_ids("ab", "characters"), 0.0
    for path in itertools.product((BLANK, *wanted), repeat=4):
        if [k for k, _ in itertools.groupby(path) if k != BLANK] == wanted:
            total += float(scores[range(4), list(path)].sum().exp())
    assert recognizer.log_likelihood([sound], ["ab"])[0] == pytest.approx(np.log(total) / 2, abs=1e-5)


def test_greedy_joins_repeats_and_drops_blanks() -> None:
    recognizer = CtcRecognizer.random(text_form="characters")
    a, b = token_ids("ab", "characters")
    ids = [0, a, a, 0, a, MARK, MARK, b, MARK]
    scores = torch.full((len(ids), 29), -5.0)
    scores[range(len(ids)), ids] = -0.5
    heard = recognizer._greedy(scores)
    assert heard.text == "aa b" and heard.tokens == ("a", "a", " ", "b", " ")
    frame_s = recognizer.config.frame_length / 16000
    assert heard.spans[0] == (frame_s, 3 * frame_s) and heard.spans[1] == (4 * frame_s, 5 * frame_s)
    assert heard.logprobs == (-0.5,) * 5


def test_loudness_does_not_matter_and_silence_stays_silent() -> None:
    samples = tone().samples
    np.testing.assert_allclose(levelled(samples), levelled(samples * 0.1), rtol=1e-5)
    assert np.abs(levelled(np.zeros(100, np.float32))).max() == 0
    assert np.abs(levelled(np.full(100, 1e-5, np.float32))).max() < 1e-3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_saved_recogniser_loads_the_same(layout: str, tmp_path: Path) -> None:
    first = CtcRecognizer(CtcModel(LAYOUTS[layout]))
    first.save(tmp_path)
    second = CtcRecognizer.load(tmp_path)
    assert second.config == first.config and second.name.startswith(f"ctc-{first.text_form}@")
    rounded = CtcRecognizer(CtcModel(LAYOUTS[layout]))
    rounded.model.load_state_dict({name: value.half() for name, value in first.model.state_dict().items()})
    assert second.transcribe([tone()]) == rounded.transcribe([tone()])
    assert {value.dtype for value in second.model.state_dict().values()} == {torch.float32}
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}


def test_weights_in_float32_are_read_exactly(tmp_path: Path) -> None:
    first = CtcRecognizer.random()
    first.save(tmp_path)
    save_file(first.model.state_dict(), tmp_path / "model.safetensors")
    assert CtcRecognizer.load(tmp_path).transcribe([tone()]) == first.transcribe([tone()])


def test_one_pass_serves_transcripts_and_likelihoods() -> None:
    recognizer, passes = CtcRecognizer.random(text_form="characters"), []
    recognizer.model.register_forward_hook(lambda module, inputs, out: passes.append(len(out)))
    clips = [tone(8000), tone(9000)]
    recognizer.transcribe(clips)
    recognizer.log_likelihood(clips, ["a", "b"])
    recognizer.log_likelihood(clips[:1], ["c"])
    assert passes == [2] and (recognizer.memory.hits, recognizer.memory.misses) == (3, 2)


def test_another_alphabet_is_kept_and_heard(tmp_path: Path) -> None:
    config = replace(LAYOUTS["B"], blocks=("gated",), width=16, tokens=(" ", "é", "z"))
    first = CtcRecognizer(CtcModel(config))
    first.save(tmp_path)
    second = CtcRecognizer.load(tmp_path)
    assert second.config == config and second.model.out.out_features == 4
    assert set(second.transcribe([tone()])[0].text) <= set(" éz")
    assert second.log_likelihood([tone()], ["é z"])[0] < 0
    with pytest.raises(InputError, match="found \\['a'\\]"):
        second.log_likelihood([tone()], ["a"])


def test_the_layouts_are_small_and_share_nothing() -> None:
    a, b = LAYOUTS["A"], LAYOUTS["B"]
    assert not set(a.blocks) & set(b.blocks) and a.text_form != b.text_form and a.stride != b.stride
    for config in (a, b):
        assert 1e6 < sum(p.numel() for p in CtcModel(config).parameters()) < 1.5e6


def damage_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def change_config(**fields: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        known = json.loads((folder / "config.json").read_text("utf-8"))
        (folder / "config.json").write_text(json.dumps(known | fields), "utf-8")

    return change


@pytest.mark.parametrize(
    "damage",
    [
        damage_weights,
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "config.json").write_text("{", "utf-8"),
        lambda folder: (folder / "config.json").write_text("[]", "utf-8"),
        change_config(width=32),
        change_config(text_form="characters"),
        change_config(text_form="runes"),
        change_config(blocks=["lstm"]),
        change_config(colour="blue"),
    ],
)
def test_damaged_folders_are_refused(damage: Callable[[Path], object], tmp_path: Path) -> None:
    CtcRecognizer.random().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(BundleError, match="Loading the CTC recogniser"):
        CtcRecognizer.load(tmp_path)
