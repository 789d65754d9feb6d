"""A builder's log, progress and Ctrl-C, without a builder."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from types import ModuleType

import pytest
from fakes import fake_builder
from fakes.fake_engine import Severity

from edge_retina.monitor import STEPS, held_interrupts, open_log, open_monitor


@pytest.fixture
def trt() -> ModuleType:
    return fake_builder.module("10.3.0")


def test_the_log_keeps_errors_and_the_engines_text_and_tells_all_to_logging(trt, caplog):
    log = open_log(trt)
    assert (log.errors, log.engine) == ([], "")
    with caplog.at_level(logging.DEBUG, "edge_retina.tensorrt"):
        for severity in Severity:
            text = f"{severity.name}\n"
            log.log(severity, text)
        log.log(Severity.VERBOSE, "Layers:\nName: a\nName: b\n\nI/O Tensors:\n Name: frames\n\nEngine Metadata:")
    assert log.errors == ["INTERNAL_ERROR", "ERROR"]
    assert log.engine == "Name: a\nName: b"
    levels = [record.levelname for record in caplog.records]
    assert levels == ["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "DEBUG"]
    assert {record.name for record in caplog.records} == {"edge_retina.tensorrt"}


def test_steps_inside_of_steps(trt):
    """Of 2 steps one is done, and of the 4 in the other one 3: 50% and 3/4 of 50%."""
    told: list[tuple[int, int]] = []
    monitor = open_monitor(trt, lambda *step: told.append(step), threading.Event())
    monitor.phase_start("build", None, 2)
    assert monitor.step_complete("build", 0)
    monitor.phase_start("timing", "build", 4)
    for step in range(3):
        assert monitor.step_complete("timing", step)
    monitor.phase_start("inner", "timing", 0)  # against the documentation; it is no reason to divide by it
    assert monitor.step_complete("inner", 0)
    monitor.phase_finish("inner")
    monitor.phase_finish("timing")
    assert monitor.step_complete("unknown", 5)
    assert told == [(500, STEPS), (625, STEPS), (750, STEPS), (875, STEPS), (1000, STEPS)]
    monitor.finish()
    assert len(told) == 5


def test_progress_never_falls_and_ends_at_the_end(trt):
    told: list[int] = []
    monitor = open_monitor(trt, lambda done, _: told.append(done), threading.Event())
    for name in ("one", "two"):  # one root after the other
        monitor.phase_start(name, None, 4)
        assert all(monitor.step_complete(name, step) for step in range(2))
        monitor.phase_finish(name)
    monitor.finish()
    assert told == [250, 500, STEPS]


def test_it_cancels_when_stopped(trt):
    stop = threading.Event()
    monitor = open_monitor(trt, lambda *_: None, stop)
    monitor.phase_start("build", None, 2)
    assert monitor.step_complete("build", 0) is True
    stop.set()
    assert monitor.step_complete("build", 1) is False


def test_it_cancels_and_keeps_what_on_step_raised(trt):
    def on_step(*_: int) -> None:
        raise KeyError("bar")

    monitor = open_monitor(trt, on_step, threading.Event())
    monitor.phase_start("build", None, 2)
    assert monitor.step_complete("build", 0) is False
    assert isinstance(monitor.failure, KeyError)


def test_ctrl_c_is_held_and_given_back():
    with held_interrupts() as asked:
        signal.raise_signal(signal.SIGINT)
        assert asked.is_set()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL  # the next one ends the process
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_whoever_handles_ctrl_c_keeps_it():
    calls: list[int] = []
    before = signal.signal(signal.SIGINT, lambda *_: calls.append(1))
    try:
        with held_interrupts() as asked:
            signal.raise_signal(signal.SIGINT)
            assert not asked.is_set()
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == [1]


def test_a_second_ctrl_c_ends_the_process():
    code = (
        "import signal\nfrom edge_retina.monitor import held_interrupts\n"
        "with held_interrupts():\n signal.raise_signal(signal.SIGINT)\n print('held', flush=True)\n"
        " signal.raise_signal(signal.SIGINT)\n print('still here')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert (done.stdout, done.returncode) == ("held\n", -signal.SIGINT)
