"""Keys and values of live rows: a cache of transformers. Must not know: models, requests.

Shapes: B live rows, P past ids of a prompt.

A column is a moment: the newest ids of all rows share one column, the cursor. A row starts as many columns
before it as it holds ids, and what lies before its start is masked. Distances within a row stay true, so
rotary, learnt, sliding-window and ALiBi positions all hold, and writing a step is one slice.

A pass over drafts (see `mtp`) writes several columns, and rows keep as many of them as they accept. The row
that keeps most says where the cursor goes; the others have holes there, which are masked. Only models with
rotary positions have drafts, and those come with the ids.

Where the model can attend to a shared past (see `attention`), rows that have one hold only what came after
it, and what an old row holds beside young ones becomes a past of its own, or each of them would have as many
columns. Fixed rows, for steps whose shapes and memory may not change (see `captured`), keep their buffers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from llasa.engines.attention import Held, Places, Whole, padded
from llasa.engines.prefixes import Past

COLUMNS = 256  # buffers have a multiple of
# Measured, one core, 6M Llama, pasts of 170 ids: a step of 3 rows takes 3.4 ms with copies of their past
# and 4.0 ms sharing it, of 4 rows 3.9 and 4.0, of 16 rows 10.1 and 8.0; of 64 rows, 8 a past, 35.9 and 18.9.
_TOGETHER = 4
_SPARSE = 3  # times as many columns as ids, over all rows, before the oldest are set aside


@dataclass(frozen=True)
class Frame:
    """A step of fixed shape: rows and columns looked at, and the cursor [1], on the device."""

    rows: int
    columns: int
    cursor: Tensor


@dataclass
class _Window:
    """Where live rows lie: `starts` [B] columns, the first of them, cursor; the buffer's size and dtype.

    places: where they lie by shared past; None while no row shares one. frame: of a step of fixed shape.
    buffers: how often they were made anew. empty: columns that are holes, bool [rows, columns], None while
    there are none; holes: how many each row has.
    """

    starts: list[int] = field(default_factory=list)
    first: int = 0
    cursor: int = 0
    rows: int = 0
    columns: int = 0
    dtype: torch.dtype | None = None
    places: Places | None = None
    frame: Frame | None = None
    buffers: int = 0
    empty: Tensor | None = None
    holes: list[int] = field(default_factory=list)


class _Layer(CacheLayerMixin):
    """Keys and values of one layer, [rows, heads, columns, head width]."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, window: _Window) -> None:
        super().__init__()
        self.window = window
        self.shared: tuple[Tensor, Tensor] | None = None  # of pasts, [pasts, heads, P, head width]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = self._empty(key_states)  # pyright: ignore[reportIncompatibleVariableOverride]
        self.values = self._empty(value_states)  # pyright: ignore[reportIncompatibleVariableOverride]
        self.is_initialized = True

    def _empty(self, like: Tensor) -> Tensor:
        # Zeros, not memory as it comes: a masked weight of 0 times NaN is NaN.
        shape = (self.window.rows, like.shape[1], self.window.columns, like.shape[3])
        return like.new_zeros(shape, dtype=self.window.dtype)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args, **kwargs
    ) -> tuple[Tensor | Held | Whole, Tensor]:
        if (frame := self.window.frame) is not None:
            keys, values = (side[: frame.rows, :, : frame.columns] for side in (self.keys, self.values))
            keys.index_copy_(2, frame.cursor, key_states.to(keys.dtype))
            values.index_copy_(2, frame.cursor, value_states.to(values.dtype))
            return Whole(keys), values
        live, first, now = len(self.window.starts), self.window.first, self.window.cursor
        end = now + key_states.shape[2]
        self.put(slice(live), slice(now, end), key_states, value_states)
        keys, values = self.keys[:live, :, first:end], self.values[:live, :, first:end]
        places = self.window.places
        return (Held(keys, *self.shared, places) if places and self.shared else keys), values

    def put(self, rows: slice, columns: slice, keys: Tensor, values: Tensor) -> None:
        """Write into some rows and columns."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        self.keys[rows, :, columns] = keys
        self.values[rows, :, columns] = values

    def hold(self, pasts: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Keep pasts side by side for rows that share them."""
        sides = [padded(side, self.window.dtype) for side in zip(*pasts, strict=True)]
        self.shared = (sides[0], sides[1]) if pasts else None

    def move(self, live: int, source: slice, target: slice) -> None:
        """Bring the live columns elsewhere, into new buffers if the window's size is another."""
        if not self.is_initialized:
            return
        keys, values = self.keys[:live, :, source], self.values[:live, :, source]
        if self.keys.shape[::2] == (self.window.rows, self.window.columns):
            keys, values = keys.clone(), values.clone()  # the two places may overlap
        else:
            self.lazy_initialization(keys, values)
        self.put(slice(live), target, keys, values)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self.window.cursor - self.window.first

    def get_max_length(self) -> int:
        return -1


class Rows(Cache):
    """The live rows' keys and values; a row's number changes only by `drop`.

    dtype: the model's if None. sharing: whether the model can attend to a past that rows share.
    fixed: whether buffers only grow, by doubling, so that they rarely change their place.
    """

    layers: list[_Layer]  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, dtype: torch.dtype | None = None, sharing: bool = False, fixed: bool = False) -> None:
        self.window, self._sharing, self._fixed = _Window(dtype=dtype), sharing, fixed
        self._pasts = list[Past | None]()  # of each row, the one that it shares
        self._side_by_side = list[Past]()  # those that the layers hold
        self._changed = False
        # Called without arguments, as a class would be.
        super().__init__(layer_class_to_replicate=partial(_Layer, self.window))  # pyright: ignore[reportArgumentType]

    def add(self, past: Past, length: int, count: int) -> None:
        """Append `count` rows that share one past of `length` ids."""
        window = self.window
        live = len(window.starts)
        shared = self._sharing and count >= _TOGETHER and length > 0
        own = 0 if shared else length
        self.reserve(live + count, own)
        columns = slice(window.cursor - own, window.cursor)
        window.starts += [columns.start] * count
        window.holes += [0] * count
        if window.empty is not None:
            window.empty[live : live + count] = False
        window.first = min(window.starts)
        self._pasts += [past if shared else None] * count
        self._changed = True
        self.layers += [_Layer(window) for _ in past[len(self.layers) :]]
        for layer, (keys, values) in zip(self.layers, past, strict=False):
            layer.put(slice(live, live + count), columns, keys[:, :, :own], values[:, :, :own])

    def drop(self, row: int) -> None:
        """Remove a row; the last row takes its number."""
        window = self.window
        last = len(window.starts) - 1
        columns = slice(window.first, window.cursor)
        if row != last:
            for layer in self.layers:
                keys, values = layer.keys[last, :, columns], layer.values[last, :, columns]
                layer.put(slice(row, row + 1), columns, keys, values)
            if window.empty is not None:
                window.empty[row] = window.empty[last]
        put_last(window.starts, row)
        put_last(window.holes, row)
        put_last(self._pasts, row)
        self._changed = True
        window.first = min(window.starts, default=window.cursor)

    def reserve(self, rows: int, length: int, ahead: int = 1) -> None:
        """Make room for `rows` rows, `length` columns before the cursor and `ahead` from it on."""
        window = self.window
        if rows <= window.rows and length <= window.cursor <= window.columns - ahead:
            return
        used = window.cursor - window.first
        if self._sharing:
            self._set_aside()
            used = window.cursor - window.first
        end = max(length, used)
        source, target = slice(window.first, window.cursor), slice(end - used, end)
        wanted = max(rows, len(window.starts))
        wanted_rows, columns = (
            1 << (wanted - 1).bit_length() if wanted else 0,
            (end + ahead - 1) // COLUMNS + 1,
        )
        if self._fixed:
            wanted_rows = max(window.rows, wanted_rows)
            columns = max(window.columns // COLUMNS, 1 << (columns - 1).bit_length())
        window.buffers += (wanted_rows, columns * COLUMNS) != (window.rows, window.columns)
        window.rows, window.columns = wanted_rows, columns * COLUMNS
        for layer in self.layers:
            layer.move(len(window.starts), source, target)
        if window.empty is not None:
            moved = window.empty.new_zeros(window.rows, window.columns)
            live = len(window.starts)
            moved[:live, target] = window.empty[:live, source]
            window.empty = moved
        window.starts = [start + end - window.cursor for start in window.starts]
        window.first, window.cursor = end - used, end

    def _set_aside(self) -> None:
        """Make pasts of what the oldest rows hold, while columns would be mostly empty."""
        window = self.window
        starts, now = window.starts, window.cursor
        while (now - window.first) * len(starts) > _SPARSE * sum(now - start for start in starts):
            row, columns = starts.index(window.first), self._held(starts.index(window.first))
            own = [
                (layer.keys[row : row + 1, :, columns], layer.values[row : row + 1, :, columns])
                for layer in self.layers
            ]
            before = self._pasts[row] or [(keys[:, :, :0], values[:, :, :0]) for keys, values in own]
            self._pasts[row] = [
                (torch.cat([k.to(key), key], 2), torch.cat([v.to(value), value], 2))
                for (k, v), (key, value) in zip(before, own, strict=True)
            ]
            starts[row], window.holes[row] = now, 0
            window.first = min(starts)
            self._changed = True

    def _held(self, row: int) -> slice | Tensor:
        """Return the columns of a row's own ids."""
        window = self.window
        if not window.holes[row]:
            return slice(window.starts[row], window.cursor)
        assert window.empty is not None
        columns = torch.arange(window.starts[row], window.cursor, device=window.empty.device)
        return columns[~window.empty[row, columns]]

    def advance(self, kept: Sequence[int]) -> None:
        """Move the cursor behind what rows keep of the columns that were written from it on."""
        window, most = self.window, max(kept)
        for row, count in enumerate(kept):
            if count < most:
                if window.empty is None:
                    window.empty = torch.zeros(
                        window.rows, window.columns, dtype=torch.bool, device=self.layers[0].keys.device
                    )
                window.empty[row, window.cursor + count : window.cursor + most] = True
                window.holes[row] += most - count
        window.cursor += most

    def clear(self) -> None:
        """Remove all rows; fixed ones keep their memory."""
        window = self.window
        window.starts, window.first, window.cursor = [], 0, 0
        window.holes, window.empty = [], None
        self._pasts, self._changed = [], True
        for layer in self.layers if self._fixed else ():
            if layer.is_initialized:
                layer.keys.zero_()  # what a failed step left may be NaN
                layer.values.zero_()

    def mask(self, device: torch.device, ahead: int = 1) -> Tensor | None:
        """Return which columns ids see, None where all see all.

        ahead: ids that each row is given. Of one, bool [B, columns], of several [B, 1, ahead, columns].
        """
        window = self.window
        if window.first == max(window.starts) and window.empty is None and ahead == 1:
            return None
        columns = torch.arange(window.first, window.cursor + ahead, device=device)
        seen = columns >= torch.tensor(window.starts, device=device)[:, None]
        if window.empty is not None:
            before = window.empty[: len(seen), window.first : window.cursor]
            seen[:, : before.shape[1]] &= ~before
        if ahead == 1:
            return seen
        newest = torch.arange(window.cursor, window.cursor + ahead, device=device)
        return seen[:, None, None] & (columns <= newest[:, None])

    def positions(self) -> list[int]:
        """Return how many ids each row holds, those of its past with them."""
        window = self.window
        return [
            window.cursor - start - holes + (_length(past) if past else 0)
            for start, holes, past in zip(window.starts, window.holes, self._pasts, strict=True)
        ]

    def settle(self, device: torch.device) -> None:
        """Tell the layers who shares what, if rows came or went."""
        if not self._changed:
            return
        self._changed = False
        pasts = {id(past): past for past in self._pasts if past is not None}
        side_by_side = list(pasts.values())
        if pasts and None in self._pasts:  # rows without one share nothing
            side_by_side.append([(keys[:, :, :0], values[:, :, :0]) for keys, values in side_by_side[0]])
        self._hold(side_by_side)
        number = {past: at for at, past in enumerate(pasts)}
        places = [number.get(id(past), len(pasts)) for past in self._pasts]
        lengths = [_length(past) for past in side_by_side]
        self.window.places = Places(places, lengths, device) if pasts else None

    def _hold(self, pasts: list[Past]) -> None:
        """Let the layers hold these pasts side by side."""
        held = self._side_by_side
        if len(held) == len(pasts) and all(map(_same, held, pasts)):
            return
        self._side_by_side = pasts
        for number, layer in enumerate(self.layers):
            layer.hold([past[number] for past in pasts])


def put_last(values: list[Any], row: int) -> None:
    """Remove what a list has of a row; what it has of the last row takes its place."""
    values[row] = values[-1]
    values.pop()


def _length(past: Past) -> int:
    return past[0][0].shape[2]


def _same(past: Past, other: Past) -> bool:
    return past is other or _length(past) == _length(other) == 0
