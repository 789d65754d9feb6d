"""DeepStream: the exported graph on what nvinfer documents to feed, and the parser's source on what the graph gives.

nvinfer itself runs nowhere here; its preprocessing is written down below from its documentation.
"""

from __future__ import annotations

import configparser
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import rtx
from click.testing import CliRunner
from models import tiny_model

from edge_retina.build import build
from edge_retina.bundle import Bundle
from edge_retina.commands.export import export_command
from edge_retina.detector import Detector
from edge_retina.errors import ModelError, UsageError
from edge_retina.export.deepstream import export_deepstream, for_nvinfer
from edge_retina.lowering import lower

HERE = Path(__file__).parent
FRAME = (70, 90)
FRAMES = np.random.default_rng(0).integers(0, 256, (3, *FRAME, 3), dtype=np.uint8)
NAMES = ("boxes", "scores", "labels", "count")


def nvinfer_feeds(frames: np.ndarray, config: Any) -> np.ndarray:
    """Frames at the network's size, BGR, as planes: y = net-scale-factor * (x - offset), from Gst-nvinfer's page."""
    _, height, width = (int(n) for n in config["infer-dims"].split(";"))
    assert frames.shape[1:] == (height, width, 3)  # so nothing is scaled
    assert config["model-color-format"] == "1"
    assert "offsets" not in config
    planes = np.float32(config["net-scale-factor"]) * frames.transpose(0, 3, 1, 2).astype(np.float32)
    return np.ascontiguousarray(planes)


def read_config(folder: Path) -> Any:
    parser = configparser.ConfigParser(delimiters=("=",), comment_prefixes=("#",))
    parser.read_string((folder / "config_infer.txt").read_text())
    return parser


def a_bundle(where: Path, **model: Any) -> Bundle:
    tiny_model(where / "tiny.onnx", **model)
    return build(where / "tiny.onnx", where / "tiny.edge")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return a_bundle(tmp_path_factory.mktemp("deepstream"))


def outputs(folder: Path, frames: np.ndarray) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    fed = nvinfer_feeds(frames, read_config(folder)["property"])
    return dict(zip(NAMES, session.run(list(NAMES), {"frames": fed}), strict=True))


# -- the graph


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"color_order": "rgb", "resize": "letterbox", "placement": "center", "pad_value": (114.0, 114.0, 114.0)},
        {"resize": "stretch", "rounding": "half_up"},
    ],
    ids=["usual", "rgb and centred", "stretched"],
)
def test_detections_are_the_bundles_own(tmp_path: Path, spec: dict[str, Any]) -> None:
    bundle = a_bundle(tmp_path, spec_overrides=spec)
    folder = export_deepstream(bundle, tmp_path / "out", frame=FRAME, batch=3)
    found = outputs(folder, FRAMES)
    assert found["count"].shape == (3, 1)
    with Detector.load(bundle.path, target="ort") as detector:
        expected = detector.batch(list(FRAMES))
    assert sum(map(len, expected)) > 3
    for row, detections in enumerate(expected):
        count = found["count"][row, 0]
        assert count == len(detections)
        np.testing.assert_allclose(found["boxes"][row, :count], detections.xyxy, atol=1e-3)
        np.testing.assert_allclose(found["scores"][row, :count], detections.scores, atol=1e-5)
        np.testing.assert_array_equal(found["labels"][row, :count], detections.labels)


def test_its_input_and_outputs(tiny: Bundle, tmp_path: Path) -> None:
    model = onnx.load(export_deepstream(tiny, tmp_path / "out", frame=FRAME) / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        value.name: (
            value.type.tensor_type.elem_type,
            [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
        )
        for value in (*model.graph.input, *model.graph.output)
    }
    kinds = onnx.TensorProto
    assert shapes == {
        "frames": (kinds.FLOAT, ["batch", 3, 70, 90]),
        "boxes": (kinds.FLOAT, ["batch", 100, 4]),
        "scores": (kinds.FLOAT, ["batch", 100]),
        "labels": (kinds.INT32, ["batch", 100]),
        "count": (kinds.INT32, ["batch", 1]),
    }


def test_tensorrts_builder_takes_the_frames_so(tiny: Bundle) -> None:
    """TensorRT-RTX builds an engine of it on a CPU; its form of NMS is another one, the way in and out the same."""
    model = for_nvinfer(lower(tiny.model(), "tensorrt_rtx", tiny.spec), FRAME)
    built = rtx.build(model, profiles={"frames": [[1, 3, *FRAME], [2, 3, *FRAME], [4, 3, *FRAME]]})
    assert built.ok, built.error


def test_a_graph_that_is_not_a_bundles(tiny: Bundle) -> None:
    model, _ = tiny_model()
    with pytest.raises(ModelError, match="straight into a Cast"):
        for_nvinfer(model.SerializeToString(), FRAME)


# -- the folder


def test_the_configuration(tiny: Bundle, tmp_path: Path) -> None:
    folder = export_deepstream(tiny, tmp_path / "out", frame=(720, 1280), batch=4, min_score=0.25)
    assert {path.name for path in folder.iterdir()} == {
        "Makefile",
        "config_infer.txt",
        "edge-retina.json",
        "labels.txt",
        "model.onnx",
        "nvdsinfer_edge_retina.cpp",
    }
    config = read_config(folder)
    wanted = {
        "infer-dims": "3;720;1280",
        "batch-size": "4",
        "num-detected-classes": "3",
        "cluster-mode": "4",
        "output-blob-names": "boxes;scores;labels;count",
        "parse-bbox-func-name": "NvDsInferParseEdgeRetina",
    }
    assert {key: config["property"][key] for key in wanted} == wanted
    assert dict(config["class-attrs-all"]) == {"pre-cluster-threshold": "0.25", "topk": "100"}
    make = (folder / "Makefile").read_text()
    assert "--minShapes=frames:1x3x720x1280 --optShapes=frames:4x3x720x1280 --maxShapes=frames:4x3x720x1280\n" in make
    assert (folder / "labels.txt").read_text() == "thing_0\nthing_1\nthing_2\n"
    assert "not run on a GPU yet" in (folder / "config_infer.txt").read_text()


def test_with_the_plugin(tiny: Bundle, tmp_path: Path) -> None:
    library = tmp_path / "mine.so"
    with pytest.raises(UsageError, match="cannot be read"):
        export_deepstream(tiny, tmp_path / "out", frame=FRAME, plugin=library)
    library.write_bytes(b"\x7fELF")
    folder = export_deepstream(tiny, tmp_path / "out", frame=FRAME, plugin=library)
    model = onnx.load(folder / "model.onnx")
    assert not model.functions
    (call,) = [node for node in model.graph.node if node.op_type == "AnchorDecode"]
    assert call.output[-1] == "nvinfer/count"
    make = (folder / "Makefile").read_text()
    assert "--staticPlugins=./libedge_retina_anchor_decode.so" in make
    assert "nvdsinfer_edge_retina.cpp register_plugin.cpp\n" in make
    assert (folder / "libedge_retina_anchor_decode.so").read_bytes() == b"\x7fELF"


def test_what_does_not_fit(tiny: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="--frame-size 1280x720"):
        export_deepstream(tiny, out)
    with pytest.raises(UsageError, match="even"):
        export_deepstream(tiny, out, frame=(71, 90))
    with pytest.raises(UsageError, match="give another --batch"):
        export_deepstream(tiny, out, frame=FRAME, batch=0)
    fixed = replace(tiny, manifest=replace(tiny.manifest, frame_size=FRAME, batch_max=1))
    with pytest.raises(UsageError, match="90x70 only, found 100x80"):
        export_deepstream(fixed, out, frame=(80, 100))
    with pytest.raises(UsageError, match="takes 1; give another"):
        export_deepstream(fixed, out, batch=2)
    assert not out.exists()
    out.mkdir()
    with pytest.raises(UsageError, match="is there already"):
        export_deepstream(tiny, out, frame=FRAME)


def test_the_command(tiny: Bundle, tmp_path: Path) -> None:
    words = ["deepstream", str(tiny.path), "-o", str(tmp_path / "out"), "--frame-size", "640x480", "--batch", "2"]
    done = CliRunner().invoke(export_command, words)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{tmp_path / 'out'}\n"
    assert read_config(tmp_path / "out")["property"]["infer-dims"] == "3;480;640"


# -- the parser


@pytest.fixture(scope="module", params=[(), ("-DBEFORE_ROTATION",)], ids=["9.1", "before 8"])
def parser(request: pytest.FixtureRequest, tiny: Bundle, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The exported source compiled against the stand-in of DeepStream's header, and the program that calls it."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    where = tmp_path_factory.mktemp("parser")
    source = export_deepstream(tiny, where / "out", frame=FRAME) / "nvdsinfer_edge_retina.cpp"
    flags = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{HERE}", *request.param]
    library, program = str(where / "parser.so"), str(where / "parse")
    subprocess.run([*flags, "-shared", "-fPIC", "-o", library, str(source)], check=True, timeout=120)
    subprocess.run([*flags, "-o", program, str(HERE / "parse.cpp"), "-ldl"], check=True, timeout=120)
    return [program, library]


def parse(
    parser: list[str], found: dict[str, np.ndarray], *, classes: int = 3, threshold: float = 0.0, wrong: int = 0
) -> tuple[int, np.ndarray, str]:
    """Exit code, objects (class, left, top, width, height, confidence), stderr."""
    data = struct.pack("5if", len(found["scores"]), FRAME[1], FRAME[0], classes, wrong, threshold)
    data += b"".join(np.ascontiguousarray(found[name]).tobytes() for name in NAMES)
    done = subprocess.run(parser, input=data, capture_output=True, timeout=60, check=False)
    rows = [[float(word) for word in line.split()] for line in done.stdout.decode().splitlines()]
    return done.returncode, np.array(rows).reshape(-1, 6), done.stderr.decode()


def by_hand(
    *rows: tuple[int, float, tuple[float, float, float, float]], count: int | None = None
) -> dict[str, np.ndarray]:
    found = {"boxes": np.zeros((5, 4), np.float32), "scores": np.zeros(5, np.float32)}
    found |= {"labels": np.full(5, -1, np.int32), "count": np.int32([len(rows) if count is None else count])}
    for i, (label, score, box) in enumerate(rows):
        found["labels"][i], found["scores"][i], found["boxes"][i] = label, score, box
    return found


def test_no_detections(parser: list[str]) -> None:
    assert parse(parser, by_hand())[:2] == (0, pytest.approx(np.zeros((0, 6))))


def test_rows_worked_out_by_hand(parser: list[str]) -> None:
    found = by_hand((2, 0.9, (10, 20, 30, 25)), (0, 0.5, (0, 0, 90, 70)), (1, 0.2, (1, 2, 3, 4)))
    code, objects, _ = parse(parser, found, threshold=0.3)
    assert code == 0
    np.testing.assert_allclose(objects, [[2, 10, 20, 20, 5, 0.9], [0, 0, 0, 90, 70, 0.5]], rtol=1e-6)


def test_what_nvinfer_would_not_take_is_mended_or_left_out(parser: list[str]) -> None:
    beyond = (1, 0.8, (-5, 60, 95, 80))
    found = by_hand(beyond, (3, 0.9, (1, 1, 2, 2)), (0, np.nan, (1, 1, 2, 2)), (0, 0.9, (5, 5, 5, 9)), count=4)
    code, objects, _ = parse(parser, found, threshold=0.1)
    assert code == 0
    np.testing.assert_allclose(objects, [[1, 0, 60, 90, 10, 0.8]], rtol=1e-6)


def test_a_count_that_cannot_be(parser: list[str]) -> None:
    row = (1, 0.8, (1, 2, 3, 4))
    assert len(parse(parser, by_hand(*[row] * 5, count=2**31 - 1))[1]) == 5
    assert len(parse(parser, by_hand(row, count=-1))[1]) == 0


@pytest.mark.parametrize(("wrong", "said"), [(1, "no output count"), (2, "boxes has type 1"), (3, "labels has type 3")])
def test_other_outputs_are_an_error(parser: list[str], wrong: int, said: str) -> None:
    code, _, stderr = parse(parser, by_hand(), wrong=wrong)
    assert code == 1
    assert said in stderr


def test_objects_are_the_detections_and_end_within_the_frame(parser: list[str], tiny: Bundle, tmp_path: Path) -> None:
    found = outputs(export_deepstream(tiny, tmp_path / "out", frame=FRAME, batch=3), FRAMES)
    with Detector.load(tiny.path, target="ort") as detector:
        expected = detector.batch(list(FRAMES))
    for row, detections in enumerate(expected):
        code, objects, stderr = parse(parser, {name: array[row] for name, array in found.items()})
        assert code == 0, stderr
        sized = detections.xyxy[:, 2:] - detections.xyxy[:, :2]
        seen = (sized > 0).all(axis=1)
        np.testing.assert_allclose(objects[:, 1:3], detections.xyxy[seen, :2], atol=1e-3)
        np.testing.assert_allclose(objects[:, 3:5], sized[seen], atol=1e-3)
        np.testing.assert_array_equal(objects[:, 0], detections.labels[seen])
        left, top, width, height = np.float32(objects[:, 1:5]).T
        assert (left + width <= FRAME[1]).all()
        assert (top + height <= FRAME[0]).all()
