"""Solvers beside one another in threads and processes, and one that is interrupted: the same bits as alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest

from fea import Solver, VoxelModel, solve
from tests.fea.small_block import CUBE, platens


def large() -> VoxelModel:
    return VoxelModel(np.random.default_rng(0).uniform(1, 9, (48, 48, 48)), CUBE)


def in_threads(work: Callable[[], object], count: int) -> list[object]:
    found: list[object] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:  # a failure in a thread must reach the test
            found.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_solvers_side_by_side_in_threads():
    model = large()
    alone = solve(model, platens(model), threads=2).displacement_mm
    for found in in_threads(lambda: solve(model, platens(model), threads=2).displacement_mm, 3):
        np.testing.assert_array_equal(found, alone)


def test_one_solver_called_from_several_threads():
    model = large()
    solver = Solver(model, platens(model))
    alone = solver.solve().displacement_mm
    for found in in_threads(lambda: solver.solve().displacement_mm, 3):
        np.testing.assert_array_equal(found, alone)


def reaction_of(solver: Solver | None, pipe: object) -> None:
    model = large()
    result = (solver or Solver(model, platens(model), threads=2)).solve()
    pipe.send(result.reaction_n["top"][0])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("method", "reused"), [("fork", True), ("fork", False), pytest.param("spawn", False, marks=pytest.mark.slow)]
)
def test_in_another_process(method, reused):
    """After a solve with threads in this one; threads do not survive a fork, so a solver must not wait for them."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no '{method}' here")
    model = large()
    solver = Solver(model, platens(model), threads=2)
    expected = solver.solve().reaction_n["top"][0]
    context = multiprocessing.get_context(method)
    near, far = context.Pipe(duplex=False)
    child = context.Process(target=reaction_of, args=(solver if reused else None, far))
    child.start()
    try:
        assert near.poll(120), "the other process hangs"
        assert near.recv() == expected
    finally:
        child.kill()
        child.join()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer on this system")
@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_interrupted_and_used_again():
    """Ctrl-C in the middle of a solve stops it at once, and leaves a solver that still answers, bit for bit."""
    model = VoxelModel(np.random.default_rng(0).uniform(1, 9, (64, 64, 64)), CUBE)
    solver = Solver(model, platens(model), threads=2)
    expected = solver.solve(rtol=1e-8)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for share in (0.1, 0.4, 0.7):
            signal.setitimer(signal.ITIMER_REAL, max(share * expected.solve_s, 1e-3))
            with pytest.raises(KeyboardInterrupt):
                for _ in range(50):
                    solver.solve(rtol=1e-8)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    again = solver.solve(rtol=1e-8)
    np.testing.assert_array_equal(again.displacement_mm, expected.displacement_mm)


def test_threads_are_given_back():
    model = large()
    before = threading.active_count()
    for _ in range(4):
        solve(model, platens(model), threads=2, rtol=1e-2)
    assert threading.active_count() <= before + 2


POISONED = """
import numpy as np
from fea import Prescribed, Solver, VoxelModel, YieldMaterial, face_nodes, solve_curve
for shape in ((5, 6, 7), (4, 9, 15), (3, 3, 8)):
    rng = np.random.default_rng(0)
    moduli = rng.uniform(1, 100, shape)
    for poisson in (0.3, np.where(moduli > 50, 0.2, 0.4)):
        model = VoxelModel(moduli, (1.0, 1.0, 1.0), poisson)
        ends = [Prescribed("low", face_nodes(model, 0, False), 0.0, 0.0, 0.0),
                Prescribed("high", face_nodes(model, 0, True), z=-0.1)]
        for _ in range(3):
            junk = [np.full(size, np.nan) for size in (100, 1000, 4000, 20000)]
            del junk
            for storage in ("rows", "mesh"):
                print(Solver(model, ends, storage=storage).solve(rtol=1e-9).reaction_n["high"].tobytes().hex())
            curve = solve_curve(model, ends, YieldMaterial(moduli * 0.01), [0.25, 0.5, 1.0, 0.2])
            print(curve.reaction_n["high"].tobytes().hex())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="poisoned memory is a feature of the GNU C library")
def test_results_do_not_depend_on_what_lies_in_memory():
    """Kernels read a little past the end of rows; with NaN in all memory that was given back, the same bits come out."""
    outputs = []
    for poison in ("", "255"):
        environment = {**os.environ, "MALLOC_PERTURB_": poison}
        run = subprocess.run(
            [sys.executable, "-c", POISONED], env=environment, capture_output=True, text=True, timeout=300
        )
        assert run.returncode == 0, run.stderr[-1000:]
        outputs.append(run.stdout)
    assert len(outputs[0].split()) == 54
    assert outputs[0] == outputs[1]
