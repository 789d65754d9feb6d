"""Several sources at once: fair, and never waiting for one that has nothing."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from faults import MjpegCamera

from edge_retina.errors import InputError, UsageError
from edge_retina.feeds import Feed, Named, gather, named, open_feeds
from edge_retina.newest import Bell, Limits

LIVE = "test://?size=16x16&fps=50&frames={}&live=1&seed={}"


def collect(feeds: list[Feed], bell: Bell, **options: int) -> list[list[str]]:
    for feed in feeds:
        feed.start()
    try:
        return [[f.camera for f in batch] for batch in gather(feeds, bell, stop=threading.Event(), **options)]
    finally:
        for feed in feeds:
            feed.stop()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0", Named("0")),
        ("front=rtsp://u:p=w@h/x?a=b", Named("rtsp://u:p=w@h/x?a=b", "front")),
        ("rtsp://u:p=w@h/x?a=b", Named("rtsp://u:p=w@h/x?a=b")),
        ("/data/a=b.mp4", Named("/data/a=b.mp4")),
    ],
)
def test_names(text: str, wanted: Named) -> None:
    assert named(text) == wanted
    assert "p=w" not in repr(named(text))


def test_a_file_whose_name_looks_like_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a=b.mp4").touch()
    assert named("a=b.mp4") == Named("a=b.mp4")


def test_names_are_made_unlike() -> None:
    feeds = open_feeds([Named("rtsp://u:pw@h/1"), Named("rtsp://u:pw@h/1"), Named("0", "front")], Bell())
    assert [feed.name for feed in feeds] == ["rtsp://u:***@h/1", "rtsp://u:***@h/1 (2)", "front"]
    with pytest.raises(UsageError):
        open_feeds([Named("x://")], Bell())


def test_standard_input_is_one_source() -> None:
    with pytest.raises(UsageError, match="given twice"):
        open_feeds([Named("stdin://?size=2x2"), Named("STDIN://?size=4x4", "b")], Bell())


def test_files_give_every_frame_and_take_turns() -> None:
    bell = Bell()
    feeds = open_feeds([Named("test://?size=16x16&frames=9", name) for name in "abc"], bell)
    batches = collect(feeds, bell, most=2)
    assert Counter(name for batch in batches for name in batch) == {"a": 9, "b": 9, "c": 9}
    assert all(len(set(batch)) == len(batch) <= 2 for batch in batches)
    for feed in feeds:
        assert (feed.counts.captured, feed.counts.processed, feed.counts.dropped) == (9, 9, 0)


def test_max_frames_is_of_all_sources() -> None:
    bell = Bell()
    feeds = open_feeds([Named("test://?size=16x16&frames=0", name) for name in "ab"], bell)
    assert sum(map(len, collect(feeds, bell, most=8, max_frames=7))) == 7


def test_cameras_are_served_alike_and_a_dead_one_holds_up_nobody() -> None:
    bell = Bell()
    dead = Named("http://127.0.0.1:9/", "dead")
    cameras = [Named(LIVE.format(40, seed), f"c{seed}") for seed in range(4)]
    feeds = open_feeds([*cameras, dead], bell)
    for feed in feeds:
        feed.start()
    served: Counter[str] = Counter()
    stop = threading.Event()
    for batch in gather(feeds, bell, most=1, stop=stop):
        served.update(frame.camera for frame in batch)
        time.sleep(0.01)  # a detector that is too slow for all of them: 100 of 200 a second
        if sum(served.values()) >= 60:
            stop.set()
    for feed in feeds:
        feed.stop()
    assert set(served) == {"c0", "c1", "c2", "c3"}
    assert max(served.values()) - min(served.values()) <= 3


def test_the_first_failure_counts_only_when_no_camera_gives_a_frame() -> None:
    bell = Bell()
    feeds = open_feeds([Named("http://127.0.0.1:9/1", "a"), Named("http://127.0.0.1:9/2", "b")], bell)
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9/1"):
        collect(feeds, bell)


def test_a_broken_file_is_an_error_after_the_frames_before_it(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "b.png").write_bytes(b"x")
    bell = Bell()
    feeds = open_feeds([Named(tmp_path)], bell)
    seen = []
    with pytest.raises(InputError, match=r"b\.png"):  # noqa: PT012 - what came before counts
        feeds[0].start()
        for batch in gather(feeds, bell, stop=threading.Event()):
            seen.append(batch[0].name)
    feeds[0].stop()
    assert seen == ["a.png"]


def test_a_cap_holds_for_each_source() -> None:
    bell = Bell()
    feeds = open_feeds([Named("test://?size=16x16&frames=8", "a")], bell, limits=Limits(fps=20))
    start = time.monotonic()
    collect(feeds, bell)
    assert 0.3 < time.monotonic() - start < 1.0


def test_what_was_taken_is_worked_on_though_stop_is_set() -> None:
    bell, stop = Bell(), threading.Event()
    feeds = open_feeds([Named("test://?size=16x16&fps=500&frames=0&live=1")], bell)
    feeds[0].start()
    given = 0
    threading.Timer(0.2, stop.set).start()
    for batch in gather(feeds, bell, stop=stop):
        given += len(batch)
    feeds[0].stop()
    counts = feeds[0].counts
    assert given == counts.processed == counts.captured - counts.dropped > 10


def test_stop_ends_the_wait() -> None:
    camera = MjpegCamera()
    camera.frozen = True
    bell, stop = Bell(), threading.Event()
    feeds = open_feeds([Named(camera.url)], bell)
    feeds[0].start()
    threading.Timer(0.2, stop.set).start()
    start = time.monotonic()
    assert list(gather(feeds, bell, stop=stop)) == []
    feeds[0].stop()
    assert time.monotonic() - start < 1.5
    camera.close()
