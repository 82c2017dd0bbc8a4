"""What the processor is good at. Knows no model."""

import torch


def fastest_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype that models run fastest in on a device, of float32 and bfloat16."""
    if device.type != "cpu":
        return torch.bfloat16
    features = torch.cpu.get_capabilities()
    return torch.bfloat16 if features.get("avx512_bf16") or features.get("amx_bf16") else torch.float32
