"""Whisper: likelihoods by teacher forcing, one encoder pass for everything, limits and files."""

import json
import math
from collections.abc import Sequence
from itertools import chain, islice, product
from pathlib import Path
from string import ascii_letters
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from llasa.core import Audio
from llasa.errors import BundleError, ConfigError, InputError
from llasa.recognizers import load_recognizer
from llasa.recognizers.whisper import WhisperRecognizer

SPECIAL = ("startoftranscript", "en", "de", "translate", "transcribe", "startofprev", "notimestamps")


def tiny_tokenizer() -> WhisperTokenizer:
    """Return a tokenizer of single bytes with Whisper's markers."""
    vocab = {byte: i for i, byte in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = WhisperTokenizer(vocab=vocab | {"<|endoftext|>": len(vocab)}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|{name}|>" for name in SPECIAL]})
    return tokenizer


def save_tiny_whisper(folder: Path, chunk_s: int = 2) -> Path:
    """Write a random Whisper of windows of `chunk_s` seconds, and return its folder."""
    tokenizer = tiny_tokenizer()
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("endoftext", *SPECIAL)}
    end = ids["endoftext"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = WhisperForConditionalGeneration(
            WhisperConfig(
                vocab_size=len(tokenizer), num_mel_bins=20, d_model=16, encoder_layers=2, decoder_layers=2,
                encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
                max_source_positions=50 * chunk_s, max_target_positions=64, init_std=0.3,
                bos_token_id=end, eos_token_id=end, pad_token_id=end,
                decoder_start_token_id=ids["startoftranscript"],
                suppress_tokens=None, begin_suppress_tokens=None,
            )
        )  # fmt: skip
    model.generation_config = GenerationConfig(
        max_length=24, eos_token_id=end, pad_token_id=end, bos_token_id=end,
        decoder_start_token_id=ids["startoftranscript"], is_multilingual=True,
        lang_to_id={"<|en|>": ids["en"], "<|de|>": ids["de"]}, no_timestamps_token_id=ids["notimestamps"],
        task_to_id={"transcribe": ids["transcribe"], "translate": ids["translate"]},
        suppress_tokens=[i for name, i in ids.items() if name != "endoftext"],
    )  # fmt: skip
    features = WhisperFeatureExtractor(feature_size=20, chunk_length=chunk_s)
    WhisperProcessor(features, tokenizer).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def published_tokenizer(n_languages: int) -> WhisperTokenizer:
    """Return a tokenizer with the ids of the published ones, whose words are bytes, pairs and triples.

    Args:
        n_languages: 99, 100 as large-v3 and turbo, or 1: English alone.
    """
    alphabet, letters = sorted(ByteLevel.alphabet()), "\u0120" + ascii_letters
    triples = ((left + right, third) for left, right, third in product(letters, repeat=3))
    merges = list(islice(chain(product(letters, repeat=2), triples), 50_256 - len(alphabet)))
    # The empty word is what tells CTranslate2 that there are other languages.
    words = [*alphabet, *map("".join, merges), *([""] if n_languages > 1 else []), "<|endoftext|>"]
    tokenizer = WhisperTokenizer(vocab={word: place for place, word in enumerate(words)}, merges=merges)
    tasks = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
    times = (f"{step / 50:.2f}" for step in range(1501))
    languages = islice(
        LANGUAGES, max(n_languages, 99)
    )  # English alone has the names of the others all the same
    names = chain(("startoftranscript",), languages, tasks, times)
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|{name}|>" for name in names]})
    return tokenizer


def save_published_whisper(
    folder: Path, n_mels: int = 80, n_languages: int = 99, unsaid: Sequence[int] = (), positions: int = 20
) -> Path:
    """Write a small random Whisper with the files, ids and features of the published ones.

    Args:
        n_mels: 80, or 128 as large-v3 and turbo. n_languages: as `published_tokenizer`.
        unsaid: what is never written beside special tokens. positions: the most tokens, with the prompt.
    """
    english, tokenizer = n_languages == 1, published_tokenizer(n_languages)
    special = {name[2:-2]: place for name, place in tokenizer.get_added_vocab().items()}
    end, start = special["endoftext"], special["startoftranscript"]
    ends: dict[str, Any] = {
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": start,
    }
    never = sorted({*unsaid, *range(start, special["notimestamps"] + 1)})
    written: dict[str, Any] = {"suppress_tokens": never, "begin_suppress_tokens": [220, end]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = WhisperForConditionalGeneration(
            WhisperConfig(
                vocab_size=len(tokenizer), num_mel_bins=n_mels, d_model=16, encoder_layers=1,
                decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
                decoder_ffn_dim=32, max_target_positions=positions, init_std=0.5, **ends, **written,
            )
        )  # fmt: skip
    with torch.no_grad():
        decoder = model.model.decoder
        embedded, shift = decoder.embed_tokens.weight, decoder.layer_norm.bias
        # The end is likelier than other tokens, times are not.
        embedded[end], embedded[special["notimestamps"] + 1 :], shift[:] = 1.0, -1.0, 0.5
    settings: dict[str, Any] = {
        "is_multilingual": not english,
        "no_timestamps_token_id": special["notimestamps"],
    }
    if not english:
        settings["lang_to_id"] = {f"<|{code}|>": special[code] for code in islice(LANGUAGES, n_languages)}
        settings["task_to_id"] = {name: special[name] for name in ("transcribe", "translate")}
    model.generation_config = GenerationConfig(max_length=60, **ends, **written, **settings)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=n_mels).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


PUBLISHED = {  # bands, languages, rows of the vocabulary, the prompt
    "large-v2": (80, 99, 51_865, [50_258, 50_259, 50_359, 50_363]),
    "large-v3": (128, 100, 51_866, [50_258, 50_259, 50_360, 50_364]),
    "small.en": (80, 1, 51_864, [50_257, 50_362]),
}


@pytest.fixture(scope="module", params=PUBLISHED)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def published(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_published_whisper(tmp_path_factory.mktemp(kind), *PUBLISHED[kind][:2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture
def recognizer(folder: Path) -> WhisperRecognizer:
    return WhisperRecognizer.load(folder, "cpu")


def clip(seconds: float, seed: int = 0) -> Audio:
    noise = np.random.default_rng(seed).standard_normal(round(16000 * seconds))
    return Audio((0.1 * noise).astype(np.float32), 16000)


def step_by_step(recognizer: WhisperRecognizer, sound: Audio, text: str) -> float:
    """Return the mean log-probability, of one forward pass from the sound a token."""
    tokenizer, model = recognizer._tokenizer, recognizer._model
    mel = recognizer._features([sound.samples], sampling_rate=16000, return_tensors="pt").input_features
    names = ("startoftranscript", "en", "transcribe", "notimestamps")
    ids = [tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in names]
    wanted, total = [*tokenizer.encode(" " + text, add_special_tokens=False), tokenizer.eos_token_id], 0.0
    for token in wanted:
        with torch.inference_mode():
            logits = model(input_features=mel, decoder_input_ids=torch.tensor([ids]), use_cache=False).logits
        total += float(logits[0, -1].log_softmax(-1)[token])
        ids.append(token)
    return total / len(wanted)


def test_the_likelihood_is_the_sum_of_the_steps(recognizer: WhisperRecognizer) -> None:
    clips, texts = [clip(1.0, 1), clip(1.7, 2), clip(0.4, 3)], ["Hi.", "It costs $12.", "Ünïted"]
    wanted = [step_by_step(recognizer, *pair) for pair in zip(clips, texts, strict=True)]
    np.testing.assert_allclose(recognizer.log_likelihood(clips, texts), wanted, rtol=1e-4)
    assert len({round(value, 3) for value in wanted}) == 3


def test_spaces_around_and_between_words_do_not_matter(recognizer: WhisperRecognizer) -> None:
    one, other = recognizer.log_likelihood([clip(1.0)] * 2, ["a cat", "  a \n cat "])
    assert one == pytest.approx(other, abs=1e-6)


def test_markers_in_a_text_are_text(recognizer: WhisperRecognizer) -> None:
    marked = "a<|endoftext|>"
    (likely,) = recognizer.log_likelihood([clip(1.0)], [marked])
    assert len(recognizer._ids(marked)) == len(" " + marked) + 1 and likely < 0


def test_the_encoder_runs_once_for_both(recognizer: WhisperRecognizer) -> None:
    heard: list[int] = []
    recognizer._model.get_encoder().register_forward_hook(
        lambda module, args, kwargs, out: heard.append(len(out.last_hidden_state)), with_kwargs=True
    )
    clips = [clip(1.0, seed) for seed in range(3)]
    recognizer.transcribe(clips)
    recognizer.log_likelihood(clips, ["a", "b", "c"])
    recognizer.transcribe(clips[::-1])
    recognizer.log_likelihood(clips[:1], ["d"])
    assert heard == [3]


def test_more_clips_than_are_remembered_are_still_heard(folder: Path, recognizer: WhisperRecognizer) -> None:
    small = WhisperRecognizer(recognizer._model, _processor(folder), "whisper@x", remembered=1)
    clips, texts = [clip(0.2, seed) for seed in range(10)], [str(seed) for seed in range(10)]
    assert small.transcribe(clips) == recognizer.transcribe(clips)
    wanted = recognizer.log_likelihood(clips, texts)
    np.testing.assert_allclose(small.log_likelihood(clips, texts), wanted, atol=1e-5)
    assert len(small.states._kept) == 1


def _processor(folder: Path) -> WhisperProcessor:
    return WhisperProcessor.from_pretrained(folder, local_files_only=True)


def test_transcripts_are_the_likeliest_bytes_one_by_one(recognizer: WhisperRecognizer) -> None:
    (heard,) = recognizer.transcribe([clip(1.5)])
    model, tokenizer = recognizer._model, recognizer._tokenizer
    mel = recognizer._features([clip(1.5).samples], sampling_rate=16000, return_tensors="pt").input_features
    banned, ids = model.generation_config.suppress_tokens, list(recognizer._prompt)
    end = len(ids) + model.generation_config.max_length
    while ids[-1] != tokenizer.eos_token_id and len(ids) < end:
        with torch.inference_mode():
            logits = model(input_features=mel, decoder_input_ids=torch.tensor([ids])).logits[0, -1]
            logits[banned] = -torch.inf
        ids.append(int(logits.argmax()))
    said = tokenizer.decode(ids, skip_special_tokens=True)
    assert heard.text == " ".join(said.split()) != ""


def test_a_text_longer_than_the_model_takes_scores_minus_infinity(recognizer: WhisperRecognizer) -> None:
    fits, too_long = "x" * (64 + 1 - 4 - 2), "x" * (64 + 1 - 4 - 1)  # positions, prompt, space and end
    first, second = recognizer.log_likelihood([clip(1.0)] * 2, [fits, too_long])
    assert math.isfinite(first) and second == -math.inf


def test_clips_longer_than_the_window_are_refused(recognizer: WhisperRecognizer) -> None:
    assert recognizer.transcribe([clip(2.0)])
    with pytest.raises(InputError, match=r"2\.1 s.*at most 2 s"):
        recognizer.transcribe([clip(2.1)])
    with pytest.raises(InputError, match="at most 2 s"):
        recognizer.log_likelihood([clip(2.1)], ["a"])


def test_the_language_is_part_of_the_prompt(folder: Path, recognizer: WhisperRecognizer) -> None:
    german = WhisperRecognizer.load(folder, "cpu", language="de")
    assert german.name == recognizer.name
    assert german.log_likelihood([clip(1.0)], ["a"]) != recognizer.log_likelihood([clip(1.0)], ["a"])
    with pytest.raises(ConfigError, match="klingon"):
        WhisperRecognizer.load(folder, "cpu", language="klingon")


def test_a_model_of_english_alone_gets_no_language(folder: Path) -> None:
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    model.generation_config.is_multilingual = False
    english = WhisperRecognizer(model, _processor(folder), "whisper@x")
    assert len(english._prompt) == 2
    assert english.transcribe([clip(1.0)])[0].text and english.log_likelihood([clip(1.0)], ["a"])[0] < 0


@pytest.mark.parametrize(
    "missing", ["model.safetensors", "config.json", "tokenizer.json", "processor_config.json"]
)
def test_incomplete_folders_are_refused(missing: str, tmp_path: Path) -> None:
    save_tiny_whisper(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(BundleError, match="Loading Whisper"):
        WhisperRecognizer.load(tmp_path, "cpu")


def test_weights_of_another_shape_are_refused(folder: Path, tmp_path: Path) -> None:
    save_tiny_whisper(tmp_path)
    config = (tmp_path / "config.json").read_text("utf-8")
    (tmp_path / "config.json").write_text(config.replace('"d_model": 16', '"d_model": 32'), "utf-8")
    with pytest.raises(BundleError, match="Loading Whisper"):
        WhisperRecognizer.load(tmp_path, "cpu")


@pytest.mark.parametrize("damage", ['"d_model": "x"', '"d_model": null', '"d_model": -1'])
def test_a_damaged_configuration_is_refused(damage: str, tmp_path: Path) -> None:
    save_tiny_whisper(tmp_path)
    config = (tmp_path / "config.json").read_text("utf-8")
    (tmp_path / "config.json").write_text(config.replace('"d_model": 16', damage), "utf-8")
    with pytest.raises(BundleError, match="Loading Whisper"):
        WhisperRecognizer.load(tmp_path, "cpu")


def test_an_unknown_dtype_is_no_damage(folder: Path) -> None:
    with pytest.raises(ConfigError, match="int3"):
        WhisperRecognizer.load(folder, "cpu", dtype="int3")


def test_published_checkpoints_get_their_own_prompt_and_features(kind: str, published: Path) -> None:
    n_mels, _, rows, prompt = PUBLISHED[kind]
    recognizer = WhisperRecognizer.load(published, "cpu")
    assert recognizer._prompt == prompt
    assert recognizer._model.config.vocab_size == rows
    assert recognizer._features([clip(1.0).samples], sampling_rate=16000).input_features[0].shape[0] == n_mels
    clips, texts = [clip(seconds, seed) for seed, seconds in enumerate((1.0, 7.3, 30.0))], ["a b", "Hi", "12"]
    heard, likely = recognizer.transcribe(clips), recognizer.log_likelihood(clips, texts)
    assert [recognizer.transcribe([one])[0] for one in clips] == heard and all(one.text for one in heard)
    other = WhisperRecognizer.load(published, "cpu")
    alone = [other.log_likelihood([one], [text])[0] for one, text in zip(clips, texts, strict=True)]
    np.testing.assert_allclose(likely, alone, atol=1e-4)
    other = WhisperRecognizer.load(published, "cpu")
    assert [other.transcribe([one])[0] for one in clips] == heard


@pytest.mark.parametrize("early", [None, ("lang_to_id", "task_to_id", "is_multilingual", "max_length")])
def test_what_an_early_generation_config_lacks_is_filled_in(
    published: Path, early: Sequence[str] | None, tmp_path: Path
) -> None:
    for path in published.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    file = tmp_path / "generation_config.json"
    content = json.loads(file.read_text("utf-8"))
    kept = {key: content[key] for key in content if key not in (early or ())}
    file.write_text(json.dumps(kept | {"forced_decoder_ids": [[1, 50_300], [2, 50_358]]}), "utf-8")
    if early is None:
        file.unlink()
    whole, lacking = WhisperRecognizer.load(published, "cpu"), WhisperRecognizer.load(tmp_path, "cpu")
    assert lacking.transcribe([clip(2.0)]) == whole.transcribe([clip(2.0)])
    assert lacking.log_likelihood([clip(2.0)], ["a"]) == whole.log_likelihood([clip(2.0)], ["a"])


@pytest.mark.parametrize(
    ("language", "heard"),
    [
        ("de", {"large-v2": 50_261, "large-v3": 50_261}),
        ("German", {"large-v2": 50_261, "large-v3": 50_261}),
        ("yue", {"large-v3": 50_358}),  # in large-v2, "translate" stands in its place
    ],
)
def test_a_language_is_looked_up_by_name(
    language: str, heard: dict[str, int], kind: str, published: Path
) -> None:
    if kind in heard:
        recognizer = load_recognizer(f"whisper:{published}#{language}", {})
        assert isinstance(recognizer, WhisperRecognizer) and recognizer._prompt[1] == heard[kind]
        assert recognizer.transcribe([clip(1.0)])
        return
    with pytest.raises(ConfigError, match=r"found the language '(de|yue)'.*Name another"):
        load_recognizer(f"whisper:{published}#{language}", {})


@pytest.mark.parametrize("name", ["pytorch_model.bin", "large-v3.pt"])
def test_pickles_are_refused_by_name(name: str, folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        new = name if path.suffix == ".safetensors" else path.name
        (tmp_path / new).write_bytes(path.read_bytes())
    with pytest.raises(BundleError, match=rf"only {name}, a pickle.*model\.safetensors"):
        WhisperRecognizer.load(tmp_path, "cpu")


def test_times_are_never_written_however_likely(tmp_path: Path) -> None:
    recognizer = WhisperRecognizer.load(save_published_whisper(tmp_path), "cpu")
    with torch.no_grad():
        recognizer._model.model.decoder.embed_tokens.weight[50_364:] = 9.0
    assert all(one.text for one in recognizer.transcribe([clip(1.0), clip(2.0)]))
