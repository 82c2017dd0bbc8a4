"""LoRA for training: what it may leave as it is, and what the loss must see."""

import pytest
import torch

from llasa.errors import ConfigError
from llasa.prompt import Prompt
from llasa.train.lora import adapted
from llasa.train.loss import in_chunks
from llasa.train.tokenizer import build_character_tokenizer
from tests.unit.test_sft import CODES, tiny

BOTH = {"modules_to_save": ["embed_tokens", "lm_head"]}


@pytest.fixture(scope="module")
def prompt(tmp_path_factory) -> Prompt:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_character_tokenizer(folder, CODES)
    return Prompt.load(folder, "llasa-plain", CODES)


def worn(prompt: Prompt, tied: bool, fresh: bool = False, **options):
    model = tiny(prompt, tied)
    in_chunks(model)
    return adapted(model, {"target_modules": ["q_proj"], **options}, 0, fresh)


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_that_would_stay_untrained_are_refused(prompt, tied):
    for options in ({}, {"modules_to_save": ["embed_tokens"]}):
        with pytest.raises(ConfigError, match=r"new rows.*modules_to_save"):
            worn(prompt, tied, fresh=True, **options)
    assert worn(prompt, tied, fresh=False) is not None


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_and_head_that_are_saved_are_trained(prompt, tied):
    model = worn(prompt, tied, fresh=True, **BOTH)
    ids = torch.arange(20)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    for end in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert float(end.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    "options",
    [{"target_modules": ["lm_head"]}, {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}],
)
def test_an_adapted_head_that_the_loss_would_not_see_is_refused(prompt, options):
    with pytest.raises(ConfigError, match=r"the head.*Train both whole"):
        worn(prompt, True, **options)


def test_options_that_peft_refuses_are_told(prompt):
    for options in ({"target_modules": ["nope"]}, {"ranks": 4}):
        with pytest.raises(ConfigError, match=r"Reading \[lora\].*LoraConfig"):
            worn(prompt, True, **options)
