"""The lean trunk: it says what transformers' modules say, and stands back where it would not."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from llasa.engines.backbone import Backbone
from llasa.engines.lean import Lean
from llasa.engines.quantized import quantize
from tests.unit.test_rows import MODELS, SIZES, coming_and_going, llama

SCALED = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32, "rope_theta": 5e5}  # fmt: skip


def modules_only(backbone: Backbone) -> Backbone:
    """Return it stepping through transformers' modules."""
    backbone._leans, backbone._lean = False, None
    return backbone


def biased() -> LlamaForCausalLM:
    torch.manual_seed(2)
    config = LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, rope_parameters=SCALED, head_dim=12)
    model = LlamaForCausalLM(config).eval()
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.data.normal_()
    return model


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("make", [*MODELS.values(), biased], ids=[*MODELS, "biased"])
@torch.inference_mode()
def test_its_states_are_those_of_the_modules(make, fixed: bool) -> None:
    lean, plain = Backbone(make(), fixed=fixed), modules_only(Backbone(make(), fixed=fixed))
    assert lean._lean is not None
    wide = next(lean._model.parameters()).dtype == torch.bfloat16
    near = {"rtol": 0.1, "atol": 0.1} if wide else {"rtol": 1e-4, "atol": 1e-4}
    pairs = list(zip(coming_and_going(lean), coming_and_going(plain), strict=True))
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, **near)
    assert len(pairs) > 20


def stepped(backbone: Backbone) -> Tensor:
    backbone.reset()
    backbone.add(backbone.prefill([1, 2, 3])[0], 3, 2)
    return backbone.step([4, 5])


@torch.inference_mode()
def test_it_follows_weights_that_are_trained_or_replaced() -> None:
    model = llama()
    backbone = Backbone(model)
    first = stepped(backbone)
    model.model.layers[0].mlp.up_proj.weight.mul_(2)
    trained = stepped(backbone)
    model.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(torch.zeros(48, 32))
    replaced = stepped(backbone)
    assert not torch.allclose(first, trained) and not torch.allclose(trained, replaced)
    torch.testing.assert_close(replaced, stepped(modules_only(Backbone(model))))


@torch.inference_mode()
def test_other_models_step_through_their_own_modules() -> None:
    int8 = llama().bfloat16()
    quantize(int8)
    adapted = get_peft_model(llama(), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert Lean.of(llama().model) is not None
    for trunk in (int8.model, adapted.base_model.model.model, torch.nn.Linear(2, 2)):
        assert Lean.of(trunk) is None


@torch.inference_mode()
def test_a_model_that_is_adapted_after_the_start_is_noticed() -> None:
    model = llama()
    backbone = Backbone(model)
    stepped(backbone)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    found = stepped(backbone)
    assert backbone._lean is None
    torch.testing.assert_close(found, stepped(modules_only(Backbone(adapted.base_model.model))))
