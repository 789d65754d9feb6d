"""The robot's programs: short, and each runs as it is typed, on the shipped video and bundle."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import re
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest

from edge_retina import Detections, Frame, build
from edge_retina.events import Event

SAMPLES = Path(__file__).resolve().parent.parent.parent / "samples"
ROBOT = SAMPLES / "robot"
PAN = SAMPLES / "digits" / "pan.mp4"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(SAMPLES / "digits" / "digits.onnx", tmp_path_factory.mktemp("robot") / "digits.edge").path


def type_in(program: str, *words: object, code: int = 0) -> str:
    """What a program prints when it is typed so; with another code what it says on stderr."""
    command = [sys.executable, str(ROBOT / program), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def load(program: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(f"robot_{program}", ROBOT / f"{program}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def boxes(*rows: tuple[float, float, float, float], ids: list[int] | None = None) -> Detections:
    scores, labels = np.full(len(rows), 0.75), np.zeros(len(rows))
    track_ids = None if ids is None else np.array(ids)
    return Detections(np.array(rows).reshape(-1, 4), scores, labels, ("ball",), (100, 200), track_ids)


def picture(*, live: bool = True, age_s: float = 0.0, stale: bool = False, camera: str = "") -> Frame:
    captured_ns = time.monotonic_ns() - int(age_s * 1e9)
    return Frame(np.zeros((100, 200, 3), np.uint8), 3, captured_ns, live=live, stale=stale, camera=camera)


@pytest.mark.parametrize("path", sorted(ROBOT.glob("*.py")), ids=lambda path: path.name)
def test_each_is_short_and_says_how_to_type_it(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    assert f"python samples/robot/{path.name}" in text


# ---- follow.py


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([], (0.0, 0.0)),
        ([(90, 20, 110, 50)], (0.0, 0.5)),  # in the middle, 30 of the 60 pixels that are near enough
        ([(90, 0, 110, 60)], (0.0, 0.0)),  # there
        ([(90, 0, 110, 100)], (0.0, 0.0)),  # too near: never backwards
        ([(180, 0, 200, 30)], (0.9, 0.05)),  # far right: turn first
        ([(0, 0, 20, 30)], (-0.9, 0.05)),
        ([(0, 0, 20, 30), (80, 0, 120, 30)], (0.0, 0.5)),  # the larger one is the nearer one
    ],
)
def test_a_command_by_hand(rows, wanted):
    assert load("follow").steer(boxes(*rows)) == pytest.approx(wanted)


def test_the_robot_stops_where_the_picture_is_old():
    follow, ball = load("follow"), boxes((90, 20, 110, 50))
    assert follow.command(picture(), ball) == (0.0, 0.5)
    assert follow.command(picture(age_s=0.6), ball) == (0.0, 0.0)
    assert follow.command(picture(stale=True), ball) == (0.0, 0.0)
    assert follow.command(picture(live=False, age_s=9), ball) == (0.0, 0.5)


def test_follow_prints_a_command_per_frame(bundle):
    rows = [line.split() for line in type_in("follow.py", bundle, PAN, "--max-frames", "3").splitlines()]
    assert [row[0] for row in rows] == ["0", "1", "2"]
    assert all(-1 <= float(turn) <= 1 and 0 <= float(speed) <= 1 for _, turn, speed in rows)
    assert any(float(turn) for _, turn, _ in rows)


# ---- gate.py


def test_gate_counts(bundle):
    lines = type_in("gate.py", bundle, PAN, "0,50%,100%,50%", "--max-frames", "12").splitlines()
    crossed = [line for line in lines if " went " in line]
    total = re.fullmatch(r"(\d+) in, (\d+) out, (\d+) seen", lines[-1])
    assert total is not None
    assert int(total[1]) + int(total[2]) == len(crossed)
    assert int(total[3]) >= 8  # eleven digits are in view


def test_gate_tells_crossings_and_cameras(capsys):
    gate = load("gate")
    gate.tell(Event("line", data={"name": "dog", "id": 7, "direction": "in", "in": 2, "out": 1}))
    gate.tell(Event("track", data={"name": "dog", "id": 7}))
    gate.tell(Event("down", "front", reason="unplugged"))
    assert capsys.readouterr().out == "dog 7 went in: 2 in, 1 out\nfront: down unplugged\n"


# ---- two_cameras.py


def test_two_cameras_share_a_detector(bundle):
    words = ("test://?size=64x64&frames=3", "test://?size=64x64&frames=3&seed=1", "--max-frames", "6")
    lines = type_in("two_cameras.py", bundle, *words).splitlines()
    results = [line.split()[0] for line in lines if re.match(r"(left|right) \d+:", line)]
    assert results.count("left") == results.count("right") == 3
    assert sorted(lines[-2:]) == [
        "left: 3 captured, 3 worked on, 0 skipped",
        "right: 3 captured, 3 worked on, 0 skipped",
    ]


def test_a_live_result_says_how_old_it_is(capsys):
    two = load("two_cameras")
    two.show(picture(camera="left", age_s=0.2), boxes((0, 0, 9, 9)))
    two.tell(Event("down", "right", reason="no frame"))
    out = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"left 3 2\d\d ms old: ball", out[0])
    assert out[1] == "right is down no frame"


# ---- embed_asyncio.py


def test_asyncio_prints_results(bundle):
    lines = type_in("embed_asyncio.py", bundle, PAN, "3").splitlines()
    assert lines  # at least the newest
    assert lines[-1].startswith("2 [")


def test_asyncio_holds_up_nothing_and_ends_its_thread(bundle):
    embed = load("embed_asyncio")

    async def use() -> tuple[list[int], int]:
        ticks, found = 0, []

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        other = asyncio.create_task(tick())
        results = embed.results(str(bundle), "test://?size=64x64&frames=0&live=1&fps=50")
        async for frame, _ in results:
            found.append(frame.index)
            if len(found) == 3:
                break
        await results.aclose()
        other.cancel()
        return found, ticks

    found, ticks = asyncio.run(use())
    assert found == sorted(set(found))
    assert ticks > 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("edge-retina")]


# ---- ros2_node.py, against messages of the same fields: vision_msgs 4, of ROS 2 Humble and later


@dataclasses.dataclass
class Stamp:
    sec: int = 0
    nanosec: int = 0


@dataclasses.dataclass
class Header:
    stamp: Stamp = dataclasses.field(default_factory=Stamp)
    frame_id: str = ""


@dataclasses.dataclass
class Point2D:
    x: float = 0.0
    y: float = 0.0


@dataclasses.dataclass
class Pose2D:
    position: Point2D = dataclasses.field(default_factory=Point2D)
    theta: float = 0.0


@dataclasses.dataclass
class BoundingBox2D:
    center: Pose2D = dataclasses.field(default_factory=Pose2D)
    size_x: float = 0.0
    size_y: float = 0.0


@dataclasses.dataclass
class ObjectHypothesis:
    class_id: str = ""
    score: float = 0.0


@dataclasses.dataclass
class ObjectHypothesisWithPose:
    hypothesis: ObjectHypothesis = dataclasses.field(default_factory=ObjectHypothesis)
    pose: object = None


@dataclasses.dataclass
class Detection2D:
    header: Header = dataclasses.field(default_factory=Header)
    results: list = dataclasses.field(default_factory=list)
    bbox: BoundingBox2D = dataclasses.field(default_factory=BoundingBox2D)
    id: str = ""


@dataclasses.dataclass
class Detection2DArray:
    header: Header = dataclasses.field(default_factory=Header)
    detections: list = dataclasses.field(default_factory=list)


MESSAGES = (Stamp, Header, Point2D, Pose2D, BoundingBox2D, ObjectHypothesis, ObjectHypothesisWithPose)
MESSAGES += (Detection2D, Detection2DArray)


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> list[Detection2DArray]:
    """Stand-ins for rclpy and vision_msgs, strict about fields and types; what is published."""
    published: list[Detection2DArray] = []
    messages = types.ModuleType("vision_msgs.msg")
    for kind in (Detection2D, Detection2DArray, ObjectHypothesisWithPose):
        setattr(messages, kind.__name__, kind)
    rclpy = types.ModuleType("rclpy")
    publisher = types.SimpleNamespace(publish=published.append)
    node = types.SimpleNamespace(create_publisher=lambda kind, topic, depth: publisher)
    rclpy.init = lambda args: None
    rclpy.create_node = lambda name: node
    rclpy.ok = lambda: len(published) < 2
    rclpy.try_shutdown = lambda: None
    for name, module in (
        ("rclpy", rclpy),
        ("vision_msgs", types.ModuleType("vision_msgs")),
        ("vision_msgs.msg", messages),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    return published


def check(message: object) -> None:
    """Every value is of its field's type, as ROS demands (a float32 of NumPy or a new attribute would be refused)."""
    for field in dataclasses.fields(message):
        value = getattr(message, field.name)
        assert set(vars(message)) == {f.name for f in dataclasses.fields(message)}
        if field.type in ("int", "float", "str"):
            assert type(value).__name__ == field.type, field.name
        elif isinstance(value, list):
            for row in value:
                check(row)
        elif isinstance(value, MESSAGES):
            check(value)


def test_nothing_found_is_an_empty_message(ros):
    message = load("ros2_node").to_message(picture(live=False), boxes(), "camera", 5_000_000_007)
    check(message)
    assert message == Detection2DArray(Header(Stamp(5, 7), "camera"), [])


def test_a_message_by_hand(ros):
    found = boxes((10, 20, 40, 60), (0, 0, 5, 5), ids=[7, -1])
    message = load("ros2_node").to_message(picture(age_s=2), found, "front", 10 * 10**9)
    check(message)
    stamp = message.header.stamp
    assert 7.9 < stamp.sec + stamp.nanosec / 1e9 <= 8.0  # captured two seconds ago
    first, second = message.detections
    assert (first.bbox.center.position, first.bbox.size_x, first.bbox.size_y) == (Point2D(25, 40), 30, 40)
    assert first.results == [ObjectHypothesisWithPose(ObjectHypothesis("ball", 0.75))]
    assert (first.id, second.id, first.header) == ("7", "", message.header)


def test_the_node_publishes_until_it_is_shut_down(ros, bundle, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ros2_node.py", str(bundle), str(PAN), "--ros-args", "-r", "a:=b"])
    load("ros2_node").main()
    assert len(ros) == 2
    assert len(ros[0].detections) > 5
    for message in ros:
        check(message)


def test_without_ros_it_says_what_is_missing(bundle):
    assert "needs ROS 2" in type_in("ros2_node.py", bundle, PAN, code=8)
