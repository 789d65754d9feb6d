"""The emulator itself: what it computes, and that it finds what it says it finds."""

from __future__ import annotations

import signal
import subprocess

import numpy as np
import pytest
from emulator.build import HERE, SANITIZERS, compile_host, run_host

THREADS = 96


def run(kernel: str, sanitizer: str = "none", seed: int = 0) -> subprocess.CompletedProcess[str]:
    program = compile_host(f"planted-{sanitizer}", HERE / "planted.cpp", SANITIZERS[sanitizer])
    return run_host(program, kernel, EMULATOR_SEED=str(seed))


def numbers(done: subprocess.CompletedProcess[str]) -> np.ndarray:
    assert done.returncode == 0, done.stderr
    return np.array(done.stdout.splitlines()[0].split(), np.int64)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_barriers_warp_operations_and_atomics(seed):
    t = np.arange(THREADS)
    rows = numbers(run("everything", seed=seed)).reshape(THREADS, 8)
    np.testing.assert_array_equal(rows[:, 0], 32)  # multiples of 3 below 96
    np.testing.assert_array_equal(rows[:, 1:3], [[1, 0]] * THREADS)
    np.testing.assert_array_equal(rows[:, 3], np.repeat([496, 496 + 32 * 32, 496 + 64 * 32], 32))
    np.testing.assert_array_equal(rows[:, 4], np.int64(0xAAAAAAAA) - 2**32)
    np.testing.assert_array_equal(rows[:, 5], 95 * 48)
    np.testing.assert_array_equal(rows[:, 6], -128)
    np.testing.assert_array_equal(rows[:, 7], t * t)


def test_loads_of_a_watched_array_are_counted():
    loads = run("everything").stdout.splitlines()[1].split()
    assert loads == ["1"] * 95


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_barrier_makes_the_order_of_threads_irrelevant(seed):
    blocks = numbers(run("neighbour", seed=seed))[: 8 * THREADS].reshape(8, THREADS)
    wanted = (np.arange(THREADS) - 1) % THREADS + np.arange(8)[:, None]
    np.testing.assert_array_equal(blocks, wanted)


@pytest.mark.parametrize("kernel", ["neighbour", "neighbour in warp"])
def test_a_missing_barrier_shows_in_the_order_of_threads(kernel):
    right, *shuffled = (numbers(run(name, seed=1)) for name in (kernel, f"{kernel} without barrier"))
    n = 32 if "warp" in kernel else THREADS
    assert not np.array_equal(right[:n], shuffled[0][:n])


@pytest.mark.parametrize("kernel", ["neighbour", "neighbour in warp"])
def test_a_missing_barrier_is_a_race_to_thread_sanitizer(kernel):
    good, bad = run(kernel, "thread"), run(f"{kernel} without barrier", "thread")
    assert good.returncode == 0, good.stderr[-2000:]
    assert bad.returncode != 0
    assert "data race" in bad.stderr


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("deadlock", "can never complete"),
        ("not in mask", "a lane is not in the mask it gave"),
        ("ended", "a mask names a lane that has ended"),
        ("mixed", "lanes of one mask are in different operations"),
        ("outside mask", "a shuffle reads a lane outside its mask"),
        ("past the end", "past the end of a watched array"),
        ("misaligned", "not aligned"),
    ],
)
@pytest.mark.parametrize("seed", [0, 3])
def test_misuse_ends_the_process_and_says_why(kernel, message, seed):
    done = run(kernel, seed=seed)
    assert done.returncode == -signal.SIGABRT
    assert message in done.stderr


def test_a_plain_load_of_a_watched_array_ends_the_process():
    assert run("plain load").returncode == -signal.SIGSEGV


def test_launches_that_no_gpu_takes_are_refused():
    assert run("no kernel").returncode == 0
