"""`llasa` whose accelerate shards weights on a CPU too: `python -m tests.sharded train sft ...`.

accelerate lets FSDP be asked for without an accelerator and then does not do it. FSDP itself works over gloo
too, so all else is the real thing: what holds the weights, sums gradients, saves and loads.
"""

import sys
from typing import Any

from accelerate.state import AcceleratorState, DistributedType, PartialState

from llasa.cli import main

_begin = AcceleratorState.__init__


def _sharded(self: AcceleratorState, *given: Any, fsdp_plugin: Any = None, **named: Any) -> None:
    _begin(self, *given, fsdp_plugin=fsdp_plugin, **named)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


if __name__ == "__main__":
    AcceleratorState.__init__ = _sharded
    main(sys.argv[1:])
