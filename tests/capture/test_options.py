"""What is read out of URIs, and the pipelines and properties that come of it."""

from __future__ import annotations

import cv2
import pytest

from edge_retina.capture import gstreamer, network, options, raw, v4l2
from edge_retina.capture.clock import CaptureClock
from edge_retina.errors import InputError, UsageError
from edge_retina.sources import open_source

S = 1_000_000_000


def test_plain_camera() -> None:
    usb = v4l2.parse_usb("0")
    assert usb == v4l2.Usb("0")
    assert usb.properties() == (cv2.CAP_PROP_BUFFERSIZE, 1)


def test_usb_camera_gets_its_format_first() -> None:
    usb = v4l2.parse_usb("/dev/video2?size=1280x720&fps=30&format=MJPG")
    assert usb == v4l2.Usb("/dev/video2", (1280, 720), 30.0, "mjpg")
    mjpg = cv2.VideoWriter.fourcc(*"MJPG")
    assert usb.properties()[:8] == (cv2.CAP_PROP_FOURCC, mjpg, cv2.CAP_PROP_FRAME_WIDTH, 1280,
                                    cv2.CAP_PROP_FRAME_HEIGHT, 720, cv2.CAP_PROP_FPS, 30)  # fmt: skip


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("v4l2://", "wants a device"),
        ("v4l2:///dev/video0?size=big", "wanted WxH"),
        ("v4l2:///dev/video0?size=0x10", r"sides 1\.\."),
        ("v4l2:///dev/video0?fps=0", "fps: wanted a number"),
        ("v4l2:///dev/video0?fps=nan", "fps: wanted a number"),
        ("v4l2:///dev/video0?format=h264", "one of mjpg, yuyv"),
        ("v4l2:///dev/video0?speed=9", "unknown speed"),
        ("v4l2:///dev/video0?fps=1&fps=2", "one twice"),
        ("csi://x", "csi:// wants the number of a sensor"),
        ("csi://0?flip=8", r"flip: wanted a whole number 0\.\.7"),
        ("csi://0?mode=1 ! fakesink", "mode: wanted"),
        ("stdin://", "wants the size"),
        ("stdin://?size=3x2&format=nv12", "even sides"),
        ("stdin://?size=2x2&format=jpeg", "one of bgr24"),
        ("rtsp://h/x#decoder=vlc", "one of pyav, opencv, gstreamer"),
        ("rtsp://h/x#transport=sctp", "one of tcp, udp"),
        ("rtsp://h/x#transport=udp&decoder=opencv", "transport=udp wants"),
        ("http://h/x#decoder=gstreamer", "reads rtsp:// only"),
        ("rtsp://h/x y", "without spaces"),
        ("rtsp://h/x\n", "printable"),
    ],
)
def test_options_that_make_no_sense(uri: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_source(uri)


def test_options_of_ours_are_not_sent_and_a_password_may_hold_a_hash() -> None:
    assert options.split_fragment("rtsp://u:p#w@h/1#frag", ("decoder",)) == ("rtsp://u:p#w@h/1#frag", {})
    found = network.parse_network("rtsp://u:p#decoder=x@h/1#decoder=opencv")
    assert (found.url, found.decoder) == ("rtsp://u:p#decoder=x@h/1", "opencv")
    assert "p#" not in repr(found)
    assert network.parse_network("rtsp://h/1").decoder == "pyav"


def test_csi_pipeline() -> None:
    csi = gstreamer.parse_csi("1?size=1920x1080&fps=29.97&flip=2&mode=4")
    assert gstreamer.csi_pipeline(csi) == (
        "nvarguscamerasrc sensor-id=1 sensor-mode=4 ! "
        "video/x-raw(memory:NVMM),width=1920,height=1080,framerate=2997/100 ! nvvidconv flip-method=2 ! "
        "video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! appsink drop=1 max-buffers=1 sync=false"
    )
    assert "sensor-id=0 !" in gstreamer.csi_pipeline(gstreamer.parse_csi(""))


def test_hardware_decoders() -> None:
    usb = gstreamer.mjpeg_pipeline("/dev/video0", (640, 480), 30.0)
    assert usb.startswith('v4l2src device="/dev/video0" io-mode=2 ! image/jpeg,width=640,height=480,framerate=30/1 ! ')
    assert "nvv4l2decoder mjpeg=1" in usb
    rtsp = gstreamer.rtsp_pipeline('rtsp://u:a"b\\c@h/1', "h265")
    assert 'location="rtsp://u:a\\"b\\\\c@h/1" ' in rtsp  # cannot end the string that it stands in
    assert "rtph265depay ! h265parse ! nvv4l2decoder" in rtsp
    with pytest.raises(UsageError, match="printable"):
        gstreamer.rtsp_pipeline("rtsp://h/\x00")


@pytest.mark.skipif(gstreamer.has_gstreamer(), reason="this OpenCV has GStreamer")
@pytest.mark.parametrize("uri", ["csi://0", "rtsp://u:canary@h/1#decoder=gstreamer"])
def test_without_gstreamer_the_error_says_what_to_do(uri: str) -> None:
    with pytest.raises(InputError, match="sudo apt install python3-opencv") as caught:
        next(open_source(uri))
    assert "canary" not in str(caught.value)


def test_raw() -> None:
    assert raw.parse_raw("?size=4x2") == raw.Raw((4, 2))
    assert raw.parse_raw("?size=4x2&format=nv12&live=0") == raw.Raw((4, 2), "nv12", False)
    assert raw.Raw((4, 2), "nv12").shape == (3, 4, 1)


def test_the_clock_trusts_arrival_when_it_waited_and_stamps_when_not() -> None:
    clock = CaptureClock()
    assert clock.arrived(None, 5 * S, 0) == 0
    assert clock.arrived(10.0, 100 * S, S) == 0
    # Read at once though two seconds younger by its stamp: it is no older than now.
    assert clock.arrived(12.0, 100 * S, 0) == 0
    # 3 s later, by its stamp only 1 s younger, and read without a wait: it lay here for 2 s.
    assert clock.arrived(11.0, 103 * S, 0) == 2 * S
    assert clock.captured(11.0, 104 * S) == 101 * S
    # A camera whose clock runs slow: each read waits, nothing lies here.
    for second in range(104, 200):
        assert clock.arrived(11.0 + (second - 103) * 0.5, second * S, S // 2) == 0
    # A jump of the stamps begins anew.
    assert clock.arrived(5000.0, 300 * S, 0) == 0
