"""Causal LMs in Hugging Face layout, loaded strictly. Knows no engine."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from llasa.errors import BundleError
from llasa.weights import not_finite

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_model(folder: Path, dtype: torch.dtype | Literal["auto"]) -> "PreTrainedModel":
    """Return the causal LM in a folder, on the CPU; nothing is downloaded and no code in it is run.

    Args:
        folder: with config.json and safetensors weights.
        dtype: what to hold the weights in; as they are if `auto`.

    Raises:
        BundleError: it holds no such model, or weights are missing, left over, misshapen or not finite.
    """
    from transformers import AutoConfig, AutoModelForCausalLM  # two seconds, see `llama`

    doing = f"Loading the language model in {folder}"
    if not (folder / "config.json").is_file():
        raise BundleError(f"{doing}: there is no config.json. Name a folder in Hugging Face layout.")
    if (folder / "adapter_config.json").is_file():  # transformers would put it on, and say nothing
        raise BundleError(
            f"{doing}: there is a LoRA adapter in it. Give it a folder of its own, and --adapter."
        )
    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if getattr(config, "quantization_config", None):
            raise BundleError(
                f"{doing}: config.json has a quantization_config, which is not supported. "
                "Use the unquantised checkpoint, with --dtype int8."
            )
        # A checkpoint must not choose kernels: some would be fetched.
        config._attn_implementation = "sdpa"
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported below, with what is missing
            output_loading_info=True,
        )
    except (
        OSError, ValueError, TypeError, AttributeError, RuntimeError, ImportError, KeyError, ArithmeticError,
        SafetensorError, StrictDataclassError,
    ) as error:  # fmt: skip
        raise BundleError(
            f"{doing}: {error}. Fetch the folder again, whole and with safetensors weights."
        ) from error
    model, report = loaded
    kinds = ("missing_keys", "mismatched_keys", "unexpected_keys")
    wrong = [f"{kind[:-5]} {key}" for kind in kinds for key in sorted(map(str, report[kind]))]
    if wrong:
        raise BundleError(f"{doing}: {len(wrong)} weights do not fit, first {wrong[0]}. Fetch it again.")
    if odd := not_finite(model):
        raise BundleError(f"{doing}: {len(odd)} weights are not finite, first {odd[0]}. Fetch it again.")
    return model
