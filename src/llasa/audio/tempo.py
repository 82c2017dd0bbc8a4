"""Faster or slower speech at the same pitch, by FFmpeg's `atempo`. Shapes: T samples, mono float32."""

import av
import numpy as np
from av.filter import Graph

from llasa.core import Audio
from llasa.errors import ConfigError

SLOWEST, FASTEST = 0.25, 4.0
_LEAST = 0.5  # of one filter; slower speech takes two


class Tempo:
    """Changes the tempo of a sound that comes in pieces.

    speed: 2 is twice as fast.

    Raises:
        ConfigError: speed out of [0.25, 4].
    """

    def __init__(self, speed: float, sample_rate: int) -> None:
        if not SLOWEST <= speed <= FASTEST:
            raise ConfigError(f"Changing the tempo: speed is {speed}. Give {SLOWEST} to {FASTEST}.")
        self.sample_rate, self._position = sample_rate, 0
        self._graph = graph = Graph()
        nodes = [graph.add_abuffer(sample_rate=sample_rate, layout="mono", format="flt")]
        steps = [_LEAST, speed / _LEAST] if speed < _LEAST else [speed]
        nodes += [graph.add("atempo", f"{step:.6f}") for step in steps]
        nodes += [graph.add("aformat", f"sample_fmts=flt:sample_rates={sample_rate}:channel_layouts=mono")]
        graph.link_nodes(*nodes, graph.add("abuffersink")).configure()

    def push(self, audio: Audio) -> Audio:
        """Take a piece and return what is ready, perhaps nothing."""
        if len(audio.samples):
            samples = np.ascontiguousarray(audio.samples, np.float32)
            frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
            frame.sample_rate, frame.pts = self.sample_rate, self._position
            self._position += len(samples)
            self._graph.push(frame)
        return self._ready()

    def close(self) -> Audio:
        """Return the rest; nothing is pushed after it."""
        if self._position:
            self._graph.push(None)
        return self._ready()

    def _ready(self) -> Audio:
        found = [np.zeros(0, np.float32)]
        while True:
            try:
                found.append(self._graph.pull().to_ndarray()[0])
            except (BlockingIOError, EOFError):  # no more for now, no more at all
                return Audio(np.concatenate(found), self.sample_rate)
