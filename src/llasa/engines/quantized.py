"""Linear layers with 8-bit weights, for CPUs, and when they pay. Knows no engine.

Weights have one scale for each output, inputs one for each row, found as they come: a row's result does not
depend on what else is in its batch, and sums of products are exact integers.

Shapes: B rows, K inputs, M outputs.
"""

import torch
from torch import Tensor, nn

from llasa.device import fastest_dtype
from llasa.errors import ConfigError

# Levels are 1 to 255 around this one: oneDNN is quick only where inputs are unsigned.
_MIDDLE = 128
_TINY = 1e-12
# No bias; outputs as they are, in float32; nothing done to them.
_PLAINLY = (None, 1.0, 0, torch.float32, "none", [], "")
# Measured on one core (benchmarks/quantized.py): ids a second against bfloat16, with 1 and with 16 rows, are
# 3.3 and 2.2 times as many for a Llama of 1B, 1.4 and 1.2 times for one of 135M, 0.9 times for one of 6M.
_PAYS_FROM = 20_000_000
_KERNELS = ("avx512_vnni", "avx_vnni", "amx_int8")


class Int8Linear(nn.Module):
    """A linear layer with weights in 8 bits; it cannot be trained."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = bias
        wide = weight.detach().float()
        self._scale = wide.abs().amax(1).clamp(min=_TINY) / 127
        levels = (wide / self._scale[:, None]).round().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(levels, None)
        self._centres = torch.zeros(self.out_features, dtype=torch.int32)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs [..., M] of inputs [..., K], in the dtype of the inputs."""
        rows = inputs.reshape(-1, self.in_features)
        # Measured: these few calls take a fourth of the time of torch.linalg.vector_norm and torch.addcdiv.
        step = rows.abs().amax(-1, keepdim=True).float().clamp_(min=_TINY).div_(127)
        levels = (rows * step.reciprocal()).add_(_MIDDLE + 0.5).to(torch.int32).to(torch.uint8)
        products = torch.ops.onednn.qlinear_pointwise(
            levels, 1.0, _MIDDLE, self._packed, self._scale, self._centres, *_PLAINLY
        )
        outputs = products.mul_(step)
        if self.bias is not None:
            outputs.add_(self.bias)
        return outputs.to(inputs.dtype).view(*inputs.shape[:-1], self.out_features)


def quantize(model: nn.Module) -> None:
    """Put the linear layers of a causal LM on a CPU into 8 bits, all but its output head.

    The head's rows are often those of the embedding; the engine makes an 8-bit copy of those it draws from.
    The model cannot be trained from then on.

    Raises:
        ConfigError: the model has no linear layers, or this processor or build has no 8-bit kernels.
    """
    if next(model.parameters()).device.type != "cpu" or not torch.backends.mkldnn.is_available():
        raise ConfigError("Loading in int8: only CPUs with oneDNN run it. Use bfloat16, or device 'cpu'.")
    head = getattr(model, "get_output_embeddings", lambda: None)()
    count = 0
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and child is not head:
                setattr(module, name, Int8Linear(child.weight, child.bias))
                count += 1
    model.requires_grad_(False)
    if not count:
        raise ConfigError("Loading in int8: the model has no linear layers. Use bfloat16 or float32.")


def best_dtype(weights: int, device: torch.device) -> str:
    """Return the name of what `NativeEngine.load` draws fastest in: float32, bfloat16 or int8.

    The number of candidates makes no difference: where 8 bits pay for one, they pay for 32.

    Args:
        weights: how many the language model has.
        device: where it is to run.
    """
    features = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    pays = weights >= _PAYS_FROM and any(features.get(kernel) for kernel in _KERNELS)
    return "int8" if pays else str(fastest_dtype(device)).removeprefix("torch.")
