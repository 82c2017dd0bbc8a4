"""Supervised rows and the curriculum: what is cropped, prompted, labelled and corrupted."""

import itertools

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llasa.data.shards import Row, Shard
from llasa.prompt import IGNORED, Prompt
from llasa.train.sft import Curriculum, Rows, SftTask, code_loss, collate, embed_by_digits
from llasa.train.tokenizer import build_character_tokenizer

CODES = 64


def shard(speaker: str, n: int = 12) -> Shard:
    """Words of one letter; the codes of word i are all i, so text and codes can be compared."""
    rows = []
    for k in range(n):
        words = [chr(ord("a") + (k + i) % 26) for i in range(6)]
        codes = [(k + i) % 26 for i in range(6) for _ in range(4)]
        rows.append(Row(" ".join(words), codes, [4 * (i + 1) for i in range(6)]))
    return Shard(speaker, "toy@1", 25.0, rows)


@pytest.fixture(scope="module")
def prompt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    build_character_tokenizer(folder, CODES)
    return Prompt.load(folder, "llasa-plain", CODES)


def rows(prompt, **settings) -> Rows:
    return Rows([shard("ada"), shard("ben")], prompt, str, Curriculum(**settings))


def test_crops_keep_text_and_codes_together(prompt):
    torch.manual_seed(0)
    drawn = rows(prompt)
    for row in drawn.by_speaker["ada"]:
        for _ in range(20):
            text, codes = drawn.piece(row, 3)
            said = [ord(letter) - ord("a") for letter in text.rstrip(".").split()]
            assert 1 <= len(said) <= 3
            assert codes == [code for code in said for _ in range(4)]


def test_a_voice_is_cut_to_its_limit_but_never_to_nothing(prompt):
    torch.manual_seed(0)
    drawn = rows(prompt)
    row = drawn.by_speaker["ada"][0]
    assert all(4 <= len(drawn.piece(row, 6, limit)[1]) <= max(4, limit) for limit in (1, 5, 9, 100))


def test_word_shorter_than_a_code_still_has_one(prompt):
    row = Row("a b", [5, 6], [2, 2])
    torch.manual_seed(0)
    assert all(rows(prompt).piece(row, 1)[1] for _ in range(20))


def test_rows_end_with_end_and_label_only_codes(prompt):
    torch.manual_seed(0)
    drawn = rows(prompt)
    for progress in (0.0, 0.05, 0.5):
        ids, labels = drawn.draw(progress)
        assert ids[-1] == labels[-1] == prompt.end_id
        labelled = [i for i, label in zip(ids, labels, strict=True) if label != IGNORED]
        assert labelled[:-1] == prompt.ids(prompt.codes(labelled[:-1]))
        assert len(labelled) - 1 == sum(i >= prompt.first_code_id for i in ids)


def test_curriculum_grows_to_whole_sentences():
    curriculum = Curriculum(grow=0.5, words=20)
    lengths = [curriculum.longest(p / 10) for p in range(6)]
    assert lengths[0] == 2 and lengths[5] is None
    assert all(a <= b for a, b in itertools.pairwise(lengths[:5]))


def test_padding_and_batching_do_not_change_a_row(prompt):
    torch.manual_seed(0)
    model = tiny(prompt).eval()
    built = [rows(prompt).draw(0.5) for _ in range(4)]
    together = code_loss(model, *collate(built, prompt.end_id))
    alone = torch.cat([code_loss(model, *collate([row], prompt.end_id)) for row in built])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_only_input_codes_are_corrupted(prompt):
    torch.manual_seed(0)
    task = SftTask(tiny(prompt), rows(prompt, corrupt=1.0), rows(prompt), 10, tokens=400)
    ids, _ = task._batch(0.9)
    spoilt = task._corrupt(ids)
    changed = spoilt != ids
    assert changed.any()
    assert (ids[changed] >= prompt.first_code_id).all() and (spoilt[changed] >= prompt.first_code_id).all()


@pytest.mark.parametrize("muon", [True, False])
def test_it_learns(prompt, muon):
    torch.manual_seed(0)
    data = rows(prompt, prompted=0.0, corrupt=0.0)
    task = SftTask(tiny(prompt), data, data, 60, tokens=600, learning_rate=5e-3, muon=muon)
    before = task.validate()["held_loss"]
    for index in range(40):
        task.step(index)
    assert task.validate()["held_loss"] < 0.9 * before


def test_code_embeddings_start_close_for_close_codes():
    torch.manual_seed(0)
    weight = torch.randn(80, 32) * 0.02
    before = weight[:10].clone()
    embed_by_digits(weight, 10, [8, 8])
    near = (weight[10] - weight[11]).norm()
    far = (weight[10] - weight[10 + 63]).norm()
    assert near < far and torch.equal(weight[:10], before)
    assert float(weight[10:74].std()) == pytest.approx(0.02, rel=0.3)


def tiny(prompt: Prompt) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=prompt.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256,
            tie_word_embeddings=True, eos_token_id=prompt.end_id, bos_token_id=None,
        )
    )  # fmt: skip
