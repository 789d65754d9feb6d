"""What the service manager hears, on a real datagram socket in its place."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from models import tiny_model

from edge_retina import Detector, build
from edge_retina.errors import InputError
from edge_retina.events import Event
from edge_retina.stream import run
from edge_retina.watchdog import Notifier, Pulse

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no sockets with a path here")


class Manager:
    """The manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)

    def heard(self) -> list[dict[str, str]]:
        messages = []
        while True:
            try:
                text = self._socket.recv(65536).decode()
            except BlockingIOError:
                return messages
            messages.append(dict(line.split("=", 1) for line in text.splitlines()))

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    opened = Manager(str(tmp_path / "n"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watchdog")
    tiny_model(folder / "m.onnx")
    return build(folder / "m.onnx").path


def test_without_a_manager_nothing_is_sent(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier.from_environment()
    assert (notifier.active, notifier.watchdog_s, notifier.send({"READY": 1})) == (False, None, False)
    Pulse(notifier).turn()


def test_the_environment_is_read_once_and_kept_from_children(monkeypatch, manager):
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notifier = Notifier.from_environment()
    assert (notifier.active, notifier.watchdog_s) == (True, 30.0)
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)
    assert not Notifier.from_environment().active


@pytest.mark.parametrize(
    ("interval", "pid"), [("", ""), ("0", ""), ("-5", ""), ("soon", ""), ("30000000", "1")], ids=str
)
def test_a_watchdog_that_is_not_for_this_process_is_none(monkeypatch, manager, interval, pid):
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", interval)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert Notifier.from_environment().watchdog_s is None


@pytest.mark.parametrize("address", ["vsock:2:1234", "relative", ""])
def test_addresses_of_other_kinds_are_left_alone(monkeypatch, address):
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not Notifier.from_environment().active


def test_a_name_without_a_file_is_an_address_as_well(tmp_path):
    abstract = Manager(f"@edge-retina-test-{os.getpid()}")
    try:
        assert Notifier(abstract.address).send({"READY": 1, "STATUS": "two\nlines  in one"})
        assert abstract.heard() == [{"READY": "1", "STATUS": "two lines in one"}]
    finally:
        abstract.close()


def test_a_manager_that_has_gone_or_does_not_read_holds_up_nobody(tmp_path, manager):
    assert not Notifier(str(tmp_path / "gone")).send({"READY": 1})
    notifier = Notifier(manager.address)
    while notifier.send({"STATUS": "x" * 1000}):  # until its queue is full
        pass
    assert not notifier.send({"WATCHDOG": 1})
    assert manager.heard()
    assert notifier.send({"WATCHDOG": 1})


def test_a_pulse_is_ready_once_beats_in_time_and_tells_its_cameras(monkeypatch, manager):
    now = [100.0]
    monkeypatch.setattr("edge_retina.watchdog.time.monotonic", lambda: now[0])
    pulse = Pulse(Notifier(manager.address, 8.0))
    pulse.event(Event("connecting", "front"))
    pulse.event(Event("line", "front"))
    pulse.turn()
    assert manager.heard() == [{"READY": "1", "WATCHDOG": "1", "STATUS": "front connecting; 0 frames"}]
    now[0] += 1.9
    pulse.turn()
    assert manager.heard() == []
    now[0] += 0.1  # a fourth of 8 s
    pulse.turn()
    assert manager.heard() == [{"WATCHDOG": "1"}]
    for _ in range(30):
        pulse.frame()
    pulse.event(Event("down", "front", reason="no frame for 5.0 s"))
    now[0] += 3
    pulse.turn()
    status = "front down (no frame for 5.0 s); 30 frames, 6.0 a second"
    assert manager.heard() == [{"WATCHDOG": "1", "STATUS": status}]


def test_ready_is_said_again_where_nobody_took_it(tmp_path):
    pulse = Pulse(Notifier(str(tmp_path / "late")))
    pulse.turn()
    late = Manager(str(tmp_path / "late"))
    try:
        pulse.turn()
        assert late.heard()[0]["READY"] == "1"
    finally:
        late.close()


def test_systemds_own_client_is_heard_the_same_way(manager):
    if shutil.which("systemd-notify") is None:
        pytest.skip("systemd-notify is not installed (Debian: systemd)")
    sent = subprocess.run(
        ["systemd-notify", "--no-block", "--ready", "--status=as systemd says it"],
        env={**os.environ, "NOTIFY_SOCKET": manager.address},
        timeout=20,
        check=False,
    )
    assert sent.returncode == 0
    assert Notifier(manager.address).send({"READY": 1, "STATUS": "as systemd says it"})
    theirs, ours = manager.heard()
    assert {key: theirs[key] for key in ours} == ours


DEAD = "rtsp://127.0.0.1:9/none"


def test_a_run_whose_cameras_are_all_dead_lives_on_if_it_is_told_to(bundle):
    stop, turns = threading.Event(), []

    def on_turn() -> None:
        turns.append(time.monotonic())
        if len(turns) > 20:
            stop.set()

    with Detector.load(bundle, threads=1) as detector:
        with pytest.raises(InputError):
            run(detector, [DEAD], [], stop=stop, on_turn=on_turn)
        stop.clear()
        turns.clear()
        events: list[Event] = []
        run(detector, [DEAD], [], stop=stop, on_turn=on_turn, keep_trying=True, on_event=events.append)
    assert len(turns) > 20
    assert any(event.kind == "down" for event in events)


def test_the_loop_does_not_turn_while_the_detector_hangs(bundle):
    hung, turns = threading.Event(), []

    with Detector.load(bundle, threads=1) as detector:
        real, seen = detector.runtime.run, []

        def hang(frames):
            seen.append(len(turns))
            assert hung.wait(30)
            seen.append(len(turns))
            return real(frames)

        detector.runtime.run = hang
        threading.Timer(1.0, hung.set).start()
        run(
            detector,
            ["test://?live=1&fps=20&frames=0&size=64x48"],
            [],
            max_frames=1,
            on_turn=lambda: turns.append(0),
        )
    assert seen[0] == seen[1]


def command(bundle: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "edge_retina", "run", str(bundle), "--target", "ort", *options]


def test_the_command_speaks_to_its_manager(bundle, manager, tmp_path):
    environment = {**os.environ, "NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "400000"}
    source = "test://?live=1&fps=20&frames=0&size=64x48"
    words = command(bundle, "--source", f"front={source}", "--out", str(tmp_path / "o.jsonl"), "--max-frames", "20")
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    heard = manager.heard()
    (ready,) = (message for message in heard if "READY" in message)
    # The camera's thread may have told its state by then, or not yet.
    assert ready.pop("STATUS") in ("0 frames", "front connecting; 0 frames", "front live; 0 frames")
    assert ready == {"READY": "1", "WATCHDOG": "1"}
    assert sum("WATCHDOG" in message for message in heard) > 3


def test_prepare_runs_the_detector_and_opens_no_camera(bundle, manager):
    environment = {**os.environ, "NOTIFY_SOCKET": manager.address}
    words = command(bundle, "--camera", "/dev/video-none", "--prepare")
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "ready to run on ort" in done.stderr
    assert not any("READY" in message for message in manager.heard())
