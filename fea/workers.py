"""Threads that share one pass over a grid, slab by slab of node planes.

A pass takes from some ten microseconds to some milliseconds, and a solution makes thousands of them, so waking
a thread must cost next to nothing. The calling thread therefore works itself; helpers sleep on a bare lock each, take
slabs from a shared counter once they are awake, and find nothing left to do if they were late. Nobody waits for a
helper that has not begun, so a core that other programs keep busy holds up one slab at most. Passes follow each other
closely: before it sleeps, a thread watches for some ten microseconds whether it is wanted again.
"""

from __future__ import annotations

import itertools
import os
import platform
import threading
import time
import weakref
from _thread import LockType, allocate_lock
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from fea.grid import zeros_field

_X86 = platform.machine().lower() in ("x86_64", "amd64")

_SERIAL_BELOW = 100_000  # nodes; passes over fewer take some hundred microseconds, and two threads gain nothing there
_LEAST_PLANES = 4  # planes a thread must get: one more layer of elements is worked through at every border
_SHARED_OUT = 0.75  # of the planes go out as one large slab for each thread, the rest as small ones for who is free
_ALERT_S = 40e-6  # for how long a thread watches; from one pass to the next it takes half of that


@intrinsic
def _glance(typing_context: Any, array: Any) -> Any:
    """array[0] as it is in memory now, after a pause that leaves the core to its other thread, if it has one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if _X86:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        data = make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load_atomic(data, "acquire", 8)

    return types.int64(array), generate


@njit(cache=True, nogil=True)
def _watch(flag: np.ndarray, number: int, glances: int) -> bool:
    """Whether flag[0] reaches `number` within so many glances."""
    for _ in range(glances):  # noqa: SIM110 - numba has no any()
        if _glance(flag) >= number:
            return True
    return False


@cache
def _glances() -> int:
    """How often to look at a flag in `_ALERT_S`."""
    flag, tries, shortest = np.zeros(1, np.int64), 1000, 1.0
    for _ in range(4):  # the first compiles
        began = time.perf_counter()
        _watch(flag, 1, tries)
        shortest = min(shortest, time.perf_counter() - began)
    return int(tries * _ALERT_S / max(shortest, 1e-9))


class _Job:
    """One pass: slabs to be taken, and who has finished."""

    def __init__(
        self,
        number: int,
        task: Callable[..., None],
        edges: list[int],
        scratch: tuple[type, int] | None,
        over: np.ndarray,
        glances: int,
    ) -> None:
        self.number, self.task, self.edges, self.scratch = number, task, edges, scratch
        self.over, self.glances = over, glances
        self.parts = len(edges) - 1
        # `next` of a counter is atomic, an increment would not be
        self.taken, self.finished = itertools.count(), itertools.count(1)
        self.done = allocate_lock()
        self.done.acquire()
        self.error: BaseException | None = None

    def work(self, mine: dict[type, np.ndarray]) -> None:
        """Take slabs until none is left; after a failure the rest is only counted."""
        while (part := next(self.taken)) < self.parts:
            try:
                if self.error is None:
                    first, stop = self.edges[part], self.edges[part + 1]
                    if self.scratch is None:
                        self.task(first, stop)
                    else:
                        self.task(first, stop, _scratch_of(mine, *self.scratch))
            except BaseException as error:
                self.error = error
            if next(self.finished) == self.parts:
                self.over[0] = self.number
                self.done.release()

    def wait(self) -> None:
        """Return when the last slab is done."""
        if not _watch(self.over, self.number, self.glances):
            self.done.acquire()


def _scratch_of(mine: dict[type, np.ndarray], dtype: type, size: int) -> np.ndarray:
    held = mine.get(dtype)
    if held is None or held.size < size:
        held = mine[dtype] = zeros_field((size,), dtype)
    return held


class _Team:
    """The helper threads. They know nothing of the `Workers` that owns them, so that it can be collected."""

    def __init__(self, helpers: int) -> None:
        self.process = os.getpid()
        self.job: _Job | None = None
        self.ended = False
        self.posted, self.over = np.zeros(1, np.int64), np.zeros(1, np.int64)  # numbers of passes
        self.glances = _glances()
        self.bells: list[LockType] = [allocate_lock() for _ in range(helpers)]
        for number, bell in enumerate(self.bells):
            bell.acquire()
            threading.Thread(target=self._help, args=(bell,), name=f"fea-{number + 1}", daemon=True).start()

    def _help(self, bell: LockType) -> None:
        mine: dict[type, np.ndarray] = {}
        seen, glances = 0, 0
        while True:
            if _watch(self.posted, seen + 1, glances):
                bell.acquire(blocking=False)
            else:
                bell.acquire()
            if self.ended:
                return
            seen, job = int(self.posted[0]), self.job
            if job is not None:
                job.work(mine)
            del job  # it holds the arrays of the pass
            glances = self.glances

    def post(self, task: Callable[..., None], edges: list[int], scratch: tuple[type, int] | None) -> _Job:
        job = self.job = _Job(int(self.posted[0]) + 1, task, edges, scratch, self.over, self.glances)
        self.posted[0] = job.number
        self.ring()
        return job

    def ring(self) -> None:
        for bell in self.bells:
            # unlocked means rung and not heard yet; that helper will find the job of now
            if bell.locked():
                bell.release()

    def end(self) -> None:
        self.ended = True
        self.ring()


class Workers:
    """A fixed number of threads that work on slabs of planes.

    The threads start with the first pass that is worth it (so that a process may fork before), and end with the object.

    Parameters
    ----------
    threads : int, optional
        The calling thread included; default: as many as there are cores.
    """

    def __init__(self, threads: int | None) -> None:
        self.count = max(1, threads if threads is not None else (os.cpu_count() or 1))
        self._team: _Team | None = None
        self._scratch: dict[type, np.ndarray] = {}

    def slabs(
        self, planes: int, nodes: int, task: Callable[..., None], *, scratch: tuple[type, int] | None = None
    ) -> None:
        """Call `task(first, stop)` on slabs that together cover `planes` planes, and return when all are done.

        With `scratch` = (dtype, size) the task gets a third argument, an array that no other slab uses meanwhile.
        What `task` raises in any thread is raised here; other slabs may be left undone then.
        """
        threads = min(self.count, planes // _LEAST_PLANES) if nodes >= _SERIAL_BELOW else 1
        if threads <= 1:
            if scratch is None:
                task(0, planes)
            else:
                task(0, planes, _scratch_of(self._scratch, *scratch))
            return
        team = self._team
        if team is None or team.process != os.getpid():
            team = self._team = _Team(self.count - 1)
            weakref.finalize(self, team.end)
        job = team.post(task, slab_edges(planes, threads), scratch)
        job.work(self._scratch)
        job.wait()
        team.job = None
        error, job.error = job.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error, job  # or error, frame and pass would keep each other alive


def slab_edges(planes: int, threads: int) -> list[int]:
    """Borders of the slabs: a large one for each thread first, then as many small ones that even out who is late."""
    large = int(planes * _SHARED_OUT) // threads
    if (planes - large * threads) // threads < _LEAST_PLANES:
        return [planes * n // threads for n in range(threads + 1)]
    rest = planes - large * threads
    return [large * n for n in range(threads)] + [large * threads + rest * n // threads for n in range(threads + 1)]
