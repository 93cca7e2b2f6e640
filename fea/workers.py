"""Threads that share one pass over a grid, slab by slab of node planes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fea.grid import zeros_field

_SERIAL_BELOW = 100_000  # nodes; smaller grids are not worth waking a thread for


class Workers:
    """A fixed number of threads that work on slabs of planes."""

    def __init__(self, threads: int | None) -> None:
        self.count = max(1, threads if threads is not None else (os.cpu_count() or 1))
        self._pool = ThreadPoolExecutor(self.count) if self.count > 1 else None
        self._scratch: dict[tuple[int, type], np.ndarray] = {}

    def slabs(
        self, planes: int, nodes: int, task: Callable[..., None], *, scratch: tuple[type, int] | None = None
    ) -> None:
        """Call `task(first, stop)` on slabs that together cover `planes` planes.

        With `scratch` = (dtype, size) the task gets a third argument, an array that no other slab uses.
        """
        parts = 1
        if self._pool is not None and nodes >= _SERIAL_BELOW and planes >= 4 * self.count:
            parts = min(planes // 2, 3 * self.count)
        edges = [planes * n // parts for n in range(parts + 1)]
        arguments: list[Iterable[object]] = [edges[:-1], edges[1:]]
        if scratch is not None:
            arguments.append([self._scratch_of(part, *scratch) for part in range(parts)])
        if self._pool is None or parts == 1:
            task(*(next(iter(argument)) for argument in arguments))
            return
        for _ in self._pool.map(task, *arguments):
            pass

    def _scratch_of(self, part: int, dtype: type, size: int) -> np.ndarray:
        held = self._scratch.get((part, dtype))
        if held is None or held.size < size:
            held = self._scratch[part, dtype] = zeros_field((size,), dtype)
        return held
