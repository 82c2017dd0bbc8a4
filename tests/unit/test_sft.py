"""Training the language model: rows and their curriculum, batches, the loss."""

import itertools

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from llasa.data.shards import Row
from llasa.errors import ConfigError, InputError
from llasa.prompt import IGNORED, Prompt
from llasa.train.loss import in_chunks, label_loss
from llasa.train.optimizer import Muon
from llasa.train.rows import Batches, Corpus, Rows, RowsBlock
from llasa.train.sft import _only
from llasa.train.tokenizer import build_character_tokenizer

CODES = 64


def said(speaker: str, count: int = 12, codes: int = 4) -> list[Row]:
    """Words of one letter; the codes of word i are all i, so text and codes can be compared."""
    rows = []
    for k in range(count):
        words = [chr(ord("a") + (k + i) % 26) for i in range(6)]
        ids = [(k + i) % 26 for i in range(6) for _ in range(codes)]
        ends = [codes * (i + 1) for i in range(6)]
        rows.append(Row(f"{speaker}-{k}", " ".join(words), speaker, "en", len(ids) / 25, ids, ends))
    return rows


class Listed(list[Row]):
    """Rows in memory, as `Shards` gives them."""

    @property
    def speakers(self) -> list[str]:
        return [row.speaker for row in self]


@pytest.fixture(scope="module")
def prompt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    build_character_tokenizer(folder, CODES)
    return Prompt.load(folder, "llasa-plain", CODES)


def make(prompt, sources=None, max_length=200, **settings) -> Rows:
    given = sources or [(Listed([*said("ada"), *said("ben")]), 1.0)]
    block = RowsBlock(tokens=200, **settings)
    return Rows(Corpus(given, block), prompt, lambda text, _: text, block, max_length)


def tiny(prompt: Prompt, tied: bool = True) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=prompt.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256,
            tie_word_embeddings=tied, eos_token_id=prompt.end_id, bos_token_id=None,
        )
    )  # fmt: skip


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_crops_keep_text_and_codes_together(prompt):
    rows, drawn = make(prompt), random()
    for row in said("ada"):
        for _ in range(20):
            text, codes = rows.piece(row, 3, drawn)
            letters = [ord(letter) - ord("a") for letter in text.split()]
            assert 1 <= len(letters) <= 3
            assert codes == [code for code in letters for _ in range(4)]


def test_a_voice_is_cut_to_its_limit_but_never_to_nothing(prompt):
    rows, row = make(prompt), said("ada")[0]
    lengths = [len(rows.piece(row, 6, random(), limit)[1]) for limit in (1, 5, 9, 100)]
    assert all(4 <= length <= max(4, limit) for length, limit in zip(lengths, (1, 5, 9, 100), strict=True))


def test_word_shorter_than_a_code_still_has_one(prompt):
    row = Row("x", "a b", "ada", "en", 0.1, [5, 6], [2, 2])
    assert all(make(prompt).piece(row, 1, random(seed))[1] for seed in range(20))


def test_rows_whose_words_are_not_aligned_stay_whole(prompt):
    row = Row("x", "a b c", "ada", "en", 0.4, [1, 2, 3, 4], [1, 4])
    assert make(prompt).piece(row, 1, random()) == ("a b c", [1, 2, 3, 4])


@pytest.mark.parametrize("learn_prompt", [True, False])
def test_rows_end_with_end_and_label_only_codes(prompt, learn_prompt):
    rows = make(prompt, grow=0.5, voice_prompt=1.0, learn_prompt=learn_prompt)
    for progress in (0.0, 0.3, 1.0):
        for ids, labels in rows.build(3, progress, random()):
            assert ids[-1] == labels[-1] == prompt.end_id
            told = [label for label in labels if label != IGNORED]
            codes = sum(i >= prompt.first_code_id for i in ids)
            assert prompt.codes(told[:-1]) and ids[-len(told) :] == told
            assert len(told) - 1 == codes if learn_prompt else len(told) - 1 <= codes


def test_a_voice_is_another_row_of_the_speaker(prompt):
    ada = [Row(f"a{i}", "a a", "ada", "en", 1, [1] * 5 + [i + 30]) for i in range(4)]
    ben = [Row(f"b{i}", "b b", "ben", "en", 1, [2] * 6) for i in range(4)]
    lone = [Row("c", "c c", "", "en", 1, [3] * 6), Row("d", "d d", "", "en", 1, [3] * 6)]
    rows = make(prompt, [(Listed([*ada, *ben, *lone]), 1.0)], voice_prompt=1.0)
    for seed in range(20):
        [(ids, labels)] = rows.build(1, 1.0, random(seed))
        codes = [i - prompt.first_code_id for i in ids if i >= prompt.first_code_id]
        assert len(codes) == 12 and set(codes) <= {1, 30, 31, 32, 33} and codes[-1] == 31 != codes[5]
        assert sum(label != IGNORED for label in labels) == 7
    [(ids, _)] = rows.build(8, 1.0, random())
    assert sum(i >= prompt.first_code_id for i in ids) == 6  # who speaks is not known


def test_a_voice_that_makes_the_row_too_long_is_left_out(prompt):
    rows = make(prompt, max_length=60, voice_prompt=1.0)
    assert all(len(ids) <= 60 for seed in range(20) for ids, _ in rows.build(3, 1.0, random(seed)))
    assert len(rows.build(3, 1.0, random())[0][0]) == rows.lengths[3]


def test_rows_that_cannot_be_used_are_told_and_never_drawn(prompt):
    bad = [Row("long", "a", "ada", "en", 9, [1] * 300), Row("mute", "", "ada", "en", 1, [1] * 9)]
    rows = make(prompt, [(Listed([*bad, *said("ada")]), 1.0)])
    assert [(one.id, one.reason) for one in rows.rejects] == [("long", "too-long"), ("mute", "bad-text")]
    order = rows.order(0)
    drawn = np.concatenate([order.rows(epoch, w) for epoch in range(5) for w in range(order.windows)])
    assert drawn.min() >= 2 and len(set(drawn)) == 12
    with pytest.raises(ConfigError, match="none left"):
        make(prompt, [(Listed(bad), 1.0)]).order(0)


def test_sources_are_drawn_by_weight_and_speakers_by_balance(prompt):
    few, many = Listed(said("ada", 10)), Listed([*said("ben", 90), *said("cid", 10)])
    corpus = Corpus([(few, 2.0), (many, 1.0)], RowsBlock(balance=1.0, speakers={"cid": 3.0}))
    shares = [corpus.shares[corpus.speakers == speaker].sum() for speaker in range(3)]
    assert shares == pytest.approx([20, 25, 75])


def test_curriculum_grows_to_whole_rows():
    block = RowsBlock(grow=0.5, words=20)
    lengths = [block.longest(p / 10) for p in range(6)]
    assert lengths[0] == 2 and lengths[5] is None
    assert all(a <= b for a, b in itertools.pairwise(lengths[:5]))


def batches(prompt, **settings) -> Batches:
    rows = make(prompt, **{"voice_prompt": 0.5, "grow": 0.3, "corrupt": 0.3, **settings})
    return Batches(rows, rows.order(1), 30)


def test_a_batch_depends_on_its_position_alone(prompt):
    forward = [batches(prompt)[i]["input_ids"] for i in range(30)]
    one = batches(prompt)
    assert all(torch.equal(one[i]["input_ids"], forward[i]) for i in (29, 3, 17, 3, 0))
    assert not torch.equal(forward[0], forward[1])


def test_batches_hold_about_as_many_ids_from_crops_to_whole_rows(prompt):
    made = batches(prompt)
    sizes = [made[i]["input_ids"].numel() for i in range(30)]
    assert 100 < np.mean(sizes[:6]) < 300 and 100 < np.mean(sizes[20:]) < 300


def test_only_input_codes_are_corrupted(prompt):
    spoilt, clean = batches(prompt, corrupt=0.9), batches(prompt, corrupt=0.0)
    pairs = [(spoilt[i], clean[i]) for i in range(30)]
    changed = [a["input_ids"][a["input_ids"] != b["input_ids"]] for a, b in pairs]
    before = [b["input_ids"][a["input_ids"] != b["input_ids"]] for a, b in pairs]
    assert sum(map(len, changed)) > 100
    assert all((part >= prompt.first_code_id).all() for part in (*changed, *before))
    assert all(torch.equal(a["labels"], b["labels"]) for a, b in pairs)


def test_chat_takes_its_share_of_a_batch(prompt):
    rows = make(prompt, voice_prompt=0.0)
    chat = ([1] * 30, [IGNORED] * 10 + [1] * 20)
    made = Batches(rows, rows.order(1, 0.5), 20, [chat], 0.5)
    ids = [len(ids) for i in range(20) for ids, _ in made.examples(i)]
    talk = [len(ids) for i in range(20) for ids, _ in made.examples(i) if ids[0] == 1 == ids[-1]]
    assert 0.4 < sum(talk) / sum(ids) < 0.6


@pytest.mark.fault("R18")
@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_in_chunks_is_the_library_s(prompt, tied):
    plain, chunked = tiny(prompt, tied), tiny(prompt, tied)
    in_chunks(chunked, chunk=7 * prompt.vocab_size)
    for model in (plain, chunked):
        model(**batches(prompt)[20]).loss.backward()
    assert plain(**batches(prompt)[20]).loss.item() == pytest.approx(
        chunked(**batches(prompt)[20]).loss.item(), rel=1e-5
    )
    for one, other in zip(plain.parameters(), chunked.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-7)
    assert list(plain.state_dict()) == list(chunked.state_dict())


def test_no_more_logits_at_once_than_a_chunk(prompt, monkeypatch):
    import torch.nn.functional as functional

    largest, linear = [], functional.linear
    monkeypatch.setattr(functional, "linear", lambda *a: largest.append((out := linear(*a)).numel()) or out)
    hidden, head = torch.randn(2, 50, 8, requires_grad=True), torch.nn.Linear(8, 90)
    label_loss(hidden, torch.randint(0, 90, (2, 50)), head, chunk=900).backward()
    assert len(largest) == 20 and max(largest) == 900


def test_heads_that_do_more_than_project_are_refused(prompt):
    model = tiny(prompt)
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(ConfigError, match="final_logit_softcapping"):
        in_chunks(model)


@pytest.mark.fault("R18")
def test_a_row_is_the_same_alone_and_among_others(prompt):
    model, made = tiny(prompt).eval(), batches(prompt, corrupt=0.0)
    batch = next(made[i] for i in range(20, 30) if len(made[i]["input_ids"]) > 2)
    together = model(input_ids=batch["input_ids"], use_cache=False).logits
    for row, logits in zip(batch["input_ids"], together, strict=True):
        end = int((row == prompt.end_id).nonzero()[0]) + 1
        alone = model(input_ids=row[None, :end], use_cache=False).logits[0]
        torch.testing.assert_close(alone, logits[:end], rtol=1e-5, atol=1e-5)
    other = batch["input_ids"].clone()
    other[0] = torch.randint_like(other[0], prompt.vocab_size)
    assert torch.equal(model(input_ids=other, use_cache=False).logits[1:], together[1:])


def trained(prompt, folder, data, **settings) -> LlamaForCausalLM:
    model = tiny(prompt)
    in_chunks(model)
    args = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=1, use_cpu=True, report_to=[], optim="sgd",
        learning_rate=0.1, disable_tqdm=True, save_strategy="no", lr_scheduler_type="constant",
        remove_unused_columns=False, train_sampling_strategy="sequential", label_names=["labels"], **settings,
    )  # fmt: skip
    Trainer(model, args, data_collator=_only, train_dataset=data).train()
    return model


@pytest.mark.fault("R18")
def test_four_batches_of_one_are_one_batch_of_four(prompt, tmp_path):
    batch = next(b for b in (batches(prompt)[i] for i in range(30)) if len(b["input_ids"]) >= 4)
    rows = [{key: value[i : i + 1] for key, value in batch.items()} for i in range(4)]
    rows[0]["labels"][:, -20:] = IGNORED  # rows of unlike many labels
    whole = {key: torch.cat([row[key] for row in rows]) for key in rows[0]}
    one = trained(prompt, tmp_path, [whole], max_steps=1)
    four = trained(prompt, tmp_path, rows, max_steps=1, gradient_accumulation_steps=4)
    for a, b in zip(one.parameters(), four.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_muon_goes_on_where_it_stopped():
    def step(optimizer, weights, times):
        for _ in range(times):
            for weight in weights:
                weight.grad = weight.detach() + 0.1
            optimizer.step()

    def made():
        torch.manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(4, 6)), torch.nn.Parameter(torch.randn(5))]
        return weights, Muon([weights[0]], [weights[1]], 0.1, (0.9, 0.98), 0.01)

    (whole, first), (parts, second) = made(), made()
    step(first, whole, 4)
    step(second, parts, 2)
    after, third = made()
    for weight, old in zip(after, parts, strict=True):
        weight.data.copy_(old.data)
    third.load_state_dict(second.state_dict())
    third.param_groups[0]["lr"] = 0.1
    step(third, after, 2)
    assert all(torch.equal(a, b) for a, b in zip(whole, after, strict=True))


def test_an_utterance_that_cannot_be_said_is_not_a_crash(prompt):
    def form(text: str, _: str) -> str:
        if text == "c":
            raise InputError("nothing to say")
        return text

    block = RowsBlock(tokens=200, grow=1.0, words=1)
    rows = Rows(Corpus([(Listed(said("ada")), 1.0)], block), prompt, form, block, 200)
    assert all(rows.build(0, 0.0, random(seed)) for seed in range(20))
