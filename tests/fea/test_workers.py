"""Threads share a pass: every plane once, any error to the caller, no thread left behind."""

from __future__ import annotations

import gc
import multiprocessing
import threading
import time
import weakref

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fea import Prescribed, Solver, VoxelModel, face_nodes
from fea import workers as workers_module
from fea.workers import Workers, slab_edges

MANY = 10**6  # nodes: enough that threads are used


def helpers():
    return {thread for thread in threading.enumerate() if thread.name.startswith("fea-")}


def wait_for(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


@given(threads=st.integers(2, 64), planes_each=st.integers(1, 200), more=st.integers(0, 63))
def test_slabs_follow_each_other_and_none_is_empty(threads, planes_each, more):
    planes = threads * planes_each + more
    edges = slab_edges(planes, threads)
    assert (edges[0], edges[-1]) == (0, planes)
    assert (np.diff(edges) > 0).all()
    assert len(edges) - 1 in (threads, 2 * threads)


def test_two_threads_do_little_twice():
    """A layer of elements is worked through twice at every border: at most 5 % of a grid of 64 planes."""
    assert len(slab_edges(65, 2)) - 2 <= 0.05 * 65


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("nodes", [10, MANY])
def test_every_plane_is_visited_once(threads, nodes):
    workers = Workers(threads)
    for planes in (1, 2, 7, 8, 64, 129):
        visits = np.zeros(planes, int)
        workers.slabs(planes, nodes, lambda z0, z1, into=visits: np.add(into[z0:z1], 1, out=into[z0:z1]))
        assert (visits == 1).all()


def test_scratch_belongs_to_one_slab_at_a_time():
    """Each task marks its scratch, sleeps, and must find its own mark."""
    workers = Workers(4)
    seen = []

    def task(z0, z1, scratch):
        scratch[:] = z0
        time.sleep(0.002)
        seen.append(scratch.size >= 100 and scratch.dtype == np.float32 and bool((scratch == z0).all()))

    for _ in range(5):
        workers.slabs(64, MANY, task, scratch=(np.float32, 100))
    assert len(seen) > 10
    assert all(seen)


def test_helpers_work_too():
    workers = Workers(2)
    names = set()
    meet = threading.Barrier(2, timeout=10)

    def task(z0, z1):
        names.add(threading.current_thread().name)
        meet.wait()

    workers.slabs(8, MANY, task)  # two slabs, and each waits for the other to begin
    assert len(names) == 2


@pytest.mark.parametrize("failing", [0, 60])
def test_an_error_in_any_slab_surfaces_and_the_threads_survive(failing):
    workers = Workers(3)

    def task(z0, z1):
        if z0 <= failing < z1:
            raise ZeroDivisionError("slab")

    for _ in range(20):
        with pytest.raises(ZeroDivisionError, match="slab"):
            workers.slabs(64, MANY, task)
    gone = weakref.ref(task)
    del task
    assert wait_for(lambda: gone() is None), "the error holds on to the pass"
    visits = np.zeros(64, int)
    workers.slabs(64, MANY, lambda z0, z1: np.add(visits[z0:z1], 1, out=visits[z0:z1]))
    assert (visits == 1).all()


def test_a_slow_helper_does_not_stop_the_others():
    """One slab takes as long as it takes; all others are done meanwhile by whoever is free."""
    workers = Workers(2)
    done = []
    gate = threading.Event()

    def task(z0, z1):
        if z0 == 0:
            gate.wait(10)
        done.append(z0)
        if len(done) == len(slab_edges(64, 2)) - 2:
            gate.set()

    workers.slabs(64, MANY, task)
    assert done[-1] == 0
    assert gate.is_set()


def test_threads_start_with_the_first_pass_and_end_with_their_owner():
    before = helpers()
    workers = Workers(3)
    workers.slabs(64, 10, lambda z0, z1: None)  # too small
    assert not helpers() - before
    workers.slabs(64, MANY, lambda z0, z1: None)
    mine = helpers() - before
    assert len(mine) == 2
    del workers
    gc.collect()
    assert wait_for(lambda: not helpers() & mine)


def test_a_deleted_solver_leaves_no_thread_and_no_array():
    before = helpers()
    model = VoxelModel(np.full((47, 47, 47), 1000.0), (1.0, 1.0, 1.0))
    ends = [
        Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0),
        Prescribed("top", face_nodes(model, 0, True), z=-0.1),
    ]
    for _ in range(3):
        solver = Solver(model, ends, threads=2)
        solver.solve()
        assert len(helpers() - before) == 1
        before |= helpers()
        del solver
        gc.collect()
    assert wait_for(lambda: not helpers() & before)


def test_a_pass_leaves_no_reference_to_its_task():
    """The arrays of a pass must be free when it is over, though the helpers live on."""
    workers = Workers(2)

    class Task:
        def __call__(self, z0, z1):
            pass

    task = Task()
    gone = weakref.ref(task)
    workers.slabs(64, MANY, task)
    del task
    assert wait_for(lambda: gone() is None)


@pytest.mark.parametrize("thickness", [0, 3])
def test_any_number_of_threads_gives_the_same_bits(monkeypatch, thickness):
    """A ragged body, and a hollow one with the thin walls that are smoothed more, with every level shared out."""
    monkeypatch.setattr(workers_module, "_SERIAL_BELOW", 0)
    rng = np.random.default_rng(3)
    modulus = rng.uniform(100, 20000, (22, 37, 29)).astype(np.float32)
    if thickness:
        modulus[:, thickness:-thickness, thickness:-thickness] = 0
    else:
        modulus[rng.random(modulus.shape) < 0.1] = 0
    model = VoxelModel(modulus, (1.0, 0.8, 1.2))
    ends = [
        Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0),
        Prescribed("top", face_nodes(model, 0, True), z=-0.2),
    ]
    results = [Solver(model, ends, threads=threads, floating="remove").solve() for threads in (1, 2, 3, 5)]
    for other in results[1:]:
        assert np.array_equal(other.displacement_mm, results[0].displacement_mm)
        assert np.array_equal(other.reaction_n["top"], results[0].reaction_n["top"])


def test_watching_ends_after_tens_of_microseconds():
    """An idle helper sleeps: half a second without work costs it no processor time to speak of."""
    before = helpers()
    workers = Workers(2)
    workers.slabs(64, MANY, lambda z0, z1: None)
    (helper,) = helpers() - before

    def used() -> float:
        """Of the helper alone: other libraries keep threads in this process."""
        return sum(t.user_time + t.system_time for t in psutil.Process().threads() if t.id == helper.native_id)

    began = used()
    time.sleep(0.5)
    assert used() - began <= 0.02  # two ticks of the clock


def _sum_in_child(workers, connection):
    total = np.zeros(64)
    workers.slabs(64, MANY, lambda z0, z1: np.add(total[z0:z1], 1, out=total[z0:z1]))
    connection.send((float(total.sum()), len(helpers())))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_starts_threads_of_its_own():
    """Threads do not survive a fork; waiting for those of the parent would never end."""
    workers = Workers(2)
    workers.slabs(64, MANY, lambda z0, z1: None)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=_sum_in_child, args=(workers, there))
    child.start()
    assert here.poll(20), "the child hangs"
    total, threads = here.recv()
    child.join(5)
    assert total == 64
    assert threads >= 1


def test_many_short_passes_cost_little_more_than_their_work():
    """A thousand empty passes: no queue of forgotten work, no waiting for a helper that never came."""
    workers = Workers(2)
    began = time.perf_counter()
    for _ in range(1000):
        workers.slabs(64, MANY, lambda z0, z1: None)
    assert time.perf_counter() - began < 1.0
