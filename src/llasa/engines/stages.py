"""What the time of a step loop goes to. Knows no model and no requests."""

import time

import torch


class Stages:
    """Seconds that a step loop has spent since it began; who joins later subtracts what was spent before.

    step_s: the trunk. sample_s: heads and draws. read_s: prompts. Where a GPU works while the host goes on,
    events tell the first two apart.
    """

    def __init__(self, device: torch.device) -> None:
        self.step_s = self.sample_s = self.read_s = 0.0
        self._on_gpu = device.type == "cuda"
        self._began = self._stepped = 0.0
        self._events = list[torch.cuda.Event]()

    def begin(self) -> None:
        """A step begins."""
        self._events.clear()
        self._note()
        self._began = time.perf_counter()

    def stepped(self) -> None:
        """The trunk is done, or on its way."""
        self._note()
        self._stepped = time.perf_counter()

    def drawn(self) -> None:
        """The host has seen what was drawn: nothing is on its way any more."""
        whole_s = time.perf_counter() - self._began
        step_s = self._stepped - self._began
        if self._events:
            step_s = self._events[0].elapsed_time(self._events[1]) / 1000
        self.step_s += step_s
        self.sample_s += whole_s - step_s

    def spent(self) -> tuple[float, float, float]:
        """Return step_s, sample_s and read_s so far."""
        return self.step_s, self.sample_s, self.read_s

    def since(self, began: float, spent: tuple[float, float, float]) -> dict[str, float]:
        """Return what became of the time from a moment on.

        Args:
            began: of `time.perf_counter`. spent: what was spent until then.

        Returns:
            decode_s, all of it: step_s, sample_s, wait_s (prompts of others were read) and host_s, the rest.
        """
        decode_s = time.perf_counter() - began
        parts = [now - before for now, before in zip(self.spent(), spent, strict=True)]
        names = ("step_s", "sample_s", "wait_s")
        return {
            "decode_s": decode_s,
            **dict(zip(names, parts, strict=True)),
            "host_s": max(0.0, decode_s - sum(parts)),
        }

    def _note(self) -> None:
        if self._on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
