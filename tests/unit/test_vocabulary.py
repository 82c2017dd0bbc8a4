"""Growing the vocabulary of a causal language model: once, without touching what it knew."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llasa.codec.compact import CompactCodec
from llasa.errors import BundleError, ConfigError
from llasa.prompt import MARKERS, Prompt, speech_token
from llasa.train.start import Scratch, Start, starting_bundle
from llasa.train.vocabulary import begin, digit_sums, grow

LEVELS = (4, 4, 4)
CHAT = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"


def base(folder: Path, tied: bool, extra: tuple[str, ...] = (), spare: int = 0) -> Path:
    """A language model of 40 words without speech; `spare`: rows that no token has."""
    words = {
        word: number
        for number, word in enumerate(["<unk>", *(chr(97 + i) for i in range(26)), *"[]0123456789.:"])
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_tokens(list(extra))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", chat_template=CHAT)
    fast.save_pretrained(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(fast) + spare, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=tied, max_position_embeddings=128,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("tied", "spare"), [(True, 0), (False, 7)])
def test_old_rows_stay_and_new_ones_are_like_them(tmp_path, tied, spare):
    old = base(tmp_path / "base", tied, spare=spare)
    assert grow(old, LEVELS, tmp_path / "grown")
    before, after = (load_file(tmp_path / n / "model.safetensors") for n in ("base", "grown"))
    names = ["model.embed_tokens.weight"] + ([] if tied else ["lm_head.weight"])
    known = len(PreTrainedTokenizerFast.from_pretrained(old))
    for name in names:
        assert len(after[name]) % 64 == 0 and torch.equal(after[name][:known], before[name][:known])
        fresh = after[name][known : known + len(MARKERS) + 64]
        old_rows = before[name][:known]
        assert fresh.isfinite().all() and 0.3 < float(fresh.std() / old_rows.std()) < 3
        assert len(fresh.unique(dim=0)) == len(fresh)
    assert set(after) == set(before)
    prompt = Prompt.load(tmp_path / "grown", "llasa-chat", 64)
    assert prompt.first_code_id == known + len(MARKERS)


def test_growing_twice_changes_nothing(tmp_path):
    grow(base(tmp_path / "base", True), LEVELS, tmp_path / "once")
    assert not grow(tmp_path / "once", LEVELS, tmp_path / "twice")
    once, twice = (load_file(tmp_path / n / "model.safetensors") for n in ("once", "twice"))
    assert all(torch.equal(once[name], twice[name]) for name in once)
    one, other = (Tokenizer.from_file(str(tmp_path / n / "tokenizer.json")) for n in ("once", "twice"))
    assert one.get_vocab() == other.get_vocab()


def test_half_a_vocabulary_is_refused(tmp_path):
    some = base(tmp_path / "some", True, (*MARKERS, speech_token(0), speech_token(1)))
    with pytest.raises(BundleError, match="2 of 64 codes"):
        grow(some, LEVELS, tmp_path / "out")
    more = base(tmp_path / "more", True, (*MARKERS, *map(speech_token, range(65))))
    with pytest.raises(BundleError, match="64 of 64 codes and more"):
        grow(more, LEVELS, tmp_path / "out")


def test_codes_that_are_neighbours_start_alike():
    torch.manual_seed(0)
    rows = digit_sums((8, 8), 32)
    assert (rows[0] - rows[1]).norm() < (rows[0] - rows[63]).norm()
    assert float(rows.std()) == pytest.approx(1.0)


def test_new_rows_lie_around_the_mean_of_old_ones():
    torch.manual_seed(0)
    weight = torch.randn(300, 32) * 0.02 + 0.5
    old = weight[:100].clone()
    begin(weight, 100, LEVELS)
    assert torch.equal(weight[:100], old)
    assert float(weight[100:].mean()) == pytest.approx(0.5, abs=0.01)
    assert float(weight[108:172].std()) == pytest.approx(0.02, rel=0.3)


def test_a_base_model_becomes_a_bundle_that_draws_codes(tmp_path):
    CompactCodec.random().save(tmp_path / "codec")
    start = Start(model=str(base(tmp_path / "base", False)), codec=str(tmp_path / "codec"))
    bundle = starting_bundle(start, tmp_path / "start")
    assert bundle.manifest.lm.family == "llasa-chat" and bundle.manifest.lm.text == "written"
    assert bundle.prompt.codebook_size == math.prod(LEVELS) and bundle.max_length == 128
    assert bundle.prompt.render("hello")[0] != bundle.prompt.first_code_id
    again = starting_bundle(start, tmp_path / "start")
    assert again.manifest.files == bundle.manifest.files


def test_a_bundle_is_taken_as_it_is(tmp_path):
    assert starting_bundle(Start(model="starter"), tmp_path / "start").name == "starter"
    assert not (tmp_path / "start").exists()


def test_a_bundle_of_phones_learns_a_language(tmp_path):
    bundle = starting_bundle(Start(model="starter", languages=["it"]), tmp_path / "start")
    assert bundle.manifest.lm.languages == ["en", "it"] and bundle.folder == tmp_path / "start"


def new(codec: Path, form: str = "characters", width: int = 32, languages: tuple[str, ...] = ()) -> Start:
    sizes = Scratch(text=form, hidden_size=width, num_hidden_layers=1, num_attention_heads=2)
    return Start(scratch=sizes, codec=str(codec), languages=list(languages))


def test_other_settings_make_another_start(tmp_path):
    CompactCodec.random().save(tmp_path / "codec")
    made = [starting_bundle(new(tmp_path / "codec", width=w), tmp_path / "start") for w in (32, 64, 64)]
    sums = [bundle.manifest.files["lm/model.safetensors"] for bundle in made]
    assert sums[0] != sums[1] == sums[2]


def test_a_new_model_knows_the_languages_it_is_to_read(tmp_path):
    CompactCodec.random().save(tmp_path / "codec")
    bundle = starting_bundle(new(tmp_path / "codec", "phones", languages=("en", "it")), tmp_path / "start")
    assert bundle.manifest.lm.languages == ["en", "it"]
    assert bundle.prompt.text_ids(bundle.form("Perché?", "it").text)[1] == ()
    with pytest.raises(ConfigError, match="found language 'fr'"):
        starting_bundle(new(tmp_path / "codec", "phones", languages=("fr",)), tmp_path / "other")
    with pytest.raises(ConfigError, match="found a model that reads characters"):
        starting_bundle(new(tmp_path / "codec", languages=("it",)), tmp_path / "other")
