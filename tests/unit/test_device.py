"""Devices and dtypes: by name, and which is fast where."""

from contextlib import nullcontext

import pytest
import torch

from llasa.device import chosen_device, chosen_dtype, fastest_dtype
from llasa.errors import ConfigError

CPU = torch.device("cpu")


def test_names_are_read():
    assert chosen_device("cpu") == chosen_device(CPU) == CPU
    assert chosen_device(None).type in ("cpu", "cuda")
    assert chosen_dtype("bfloat16", CPU) == chosen_dtype(torch.bfloat16, CPU) == torch.bfloat16
    assert chosen_dtype(None, CPU) == fastest_dtype(CPU)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu:x", "bfloat16"])
def test_unknown_devices_are_refused(name: str):
    with pytest.raises(
        ConfigError, match=rf"Choosing the device '{name}': .+\. Choose one that 'llasa doctor' lists"
    ):
        chosen_device(name)


@pytest.mark.parametrize("dtype", ["bf16", "int8", "float", "", torch.int64])
def test_unknown_dtypes_are_refused(dtype: str | torch.dtype):
    with pytest.raises(ConfigError, match="Use one of: float32"):
        chosen_dtype(dtype, CPU)


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_emulated_bfloat16_is_not_fast(native: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert fastest_dtype(torch.device("cuda")) == dtype
