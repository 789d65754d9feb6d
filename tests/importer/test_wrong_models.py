"""What is no RetinaNet, no ONNX, or not what the spec says: one typed error with the next thing to do, in seconds."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import tiny_model
from onnx import TensorProto, helper, numpy_helper

from edge_retina import cli
from edge_retina.build import build
from edge_retina.errors import BundleError, ModelError, NotADetector, SpecError
from edge_retina.importer import FAMILIES, Source, import_model, load_onnx

FIXTURES = Path(__file__).parents[1] / "fixtures"
# Of wall time, on a machine that has other things to do; what it takes is milliseconds.
SECONDS = 10
MODEL_EXIT = ModelError.exit_code


class Net:
    """Nodes and weights of a graph being put together; each method returns the name of what it made."""

    def __init__(self, side: int = 64) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, side, side])

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        made = [f"{kind.lower()}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), made, **attributes))
        return made

    def weight(self, *values: Any) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(*values), name))
        return name

    def ints(self, *values: int) -> str:
        return self.weight(values, np.int64)

    def parameters(self, out: int, channels: int, kernel: int = 3) -> list[str]:
        values = self.rng.standard_normal((out, channels, kernel, kernel)) * 0.1
        return [self.weight(values, np.float32), self.weight(np.zeros(out), np.float32)]

    def conv(self, x: str, parameters: list[str], stride: int = 1, kernel: int = 3) -> str:
        return self.op("Conv", x, *parameters, pads=[kernel // 2] * 4, strides=[stride, stride])

    def backbone(self, levels: int, channels: int = 8) -> list[str]:
        """Features of strides 8, 16, ..."""
        x = self.op("Relu", self.conv("images", self.parameters(channels, 3), 4))
        features = []
        for _ in range(levels):
            x = self.op("Relu", self.conv(x, self.parameters(channels, channels), 2))
            features.append(x)
        return features

    def rows(self, x: str, channels: int) -> str:
        """As torchvision's heads: [B, A * C, H, W] to [B, H * W * A, C]."""
        split = self.op("Reshape", x, self.ints(1, -1, channels, *self.sides(x)))
        return self.op("Reshape", self.op("Transpose", split, perm=[0, 3, 4, 1, 2]), self.ints(1, -1, channels))

    def sides(self, x: str) -> tuple[int, int]:
        found = onnx.shape_inference.infer_shapes(self.model(x)).graph.output[0].type.tensor_type.shape.dim
        return found[2].dim_value, found[3].dim_value

    def model(self, *outputs: str) -> onnx.ModelProto:
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", [self.images], ends, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model)


def classifier() -> onnx.ModelProto:
    net = Net()
    x = net.op("Flatten", net.op("GlobalAveragePool", net.backbone(2)[-1]))
    return net.model(net.op("Gemm", x, net.weight(np.ones((8, 10)), np.float32)))


def segmentation() -> onnx.ModelProto:
    net = Net()
    x = net.conv(net.backbone(1)[0], net.parameters(21, 8, 1), kernel=1)
    return net.model(net.op("Resize", x, "", net.weight([1, 1, 8, 8], np.float32), mode="linear"))


def yolo_v5() -> onnx.ModelProto:
    """Boxes, objectness and scores of three levels, joined: [B, N, 85]."""
    net, rows = Net(), []
    for x in net.backbone(3):
        y = net.conv(x, net.parameters(3 * 85, 8, 1), kernel=1)
        y = net.op("Transpose", net.op("Reshape", y, net.ints(1, 3, 85, *net.sides(y))), perm=[0, 1, 3, 4, 2])
        rows.append(net.op("Reshape", net.op("Sigmoid", y), net.ints(1, -1, 85)))
    return net.model(net.op("Concat", *rows, axis=1))


def yolo_v8() -> onnx.ModelProto:
    """Distances as distributions over 16 bins, no anchors: [B, 84, N]."""
    net, columns = Net(), []
    for x in net.backbone(3):
        both = net.op("Concat", net.conv(x, net.parameters(64, 8)), net.conv(x, net.parameters(80, 8)), axis=1)
        columns.append(net.op("Reshape", both, net.ints(1, 144, -1)))
    box, scores = net.ops("Split", 2, net.op("Concat", *columns, axis=2), net.ints(64, 80), axis=1)
    bins = net.op("Transpose", net.op("Reshape", box, net.ints(1, 4, 16, -1)), perm=[0, 2, 1, 3])
    mean = net.weight(np.arange(16).reshape(1, 16, 1, 1), np.float32)
    box = net.op("Reshape", net.op("Conv", net.op("Softmax", bins, axis=1), mean), net.ints(1, 4, -1))
    return net.model(net.op("Concat", box, net.op("Sigmoid", scores), axis=1))


def ssd() -> onnx.ModelProto:
    """As torchvision's SSD: rows as RetinaNet's, but a conv for each of six levels, and softmax over the classes."""
    net, scores, boxes = Net(128), [], []
    for x, anchors in zip(net.backbone(6), (4, 6, 6, 6, 4, 4), strict=True):
        scores.append(net.rows(net.conv(x, net.parameters(anchors * 21, 8)), 21))
        boxes.append(net.rows(net.conv(x, net.parameters(anchors * 4, 8)), 4))
    joined = net.op("Concat", *scores, axis=1)
    return net.model(net.op("Softmax", joined, axis=-1), net.op("Concat", *boxes, axis=1))


def ssd_transposed() -> onnx.ModelProto:
    """As the original: NHWC, then flat."""
    net, scores, boxes = Net(128), [], []
    for x in net.backbone(6):
        for rows, channels in ((scores, 21), (boxes, 4)):
            y = net.op("Transpose", net.conv(x, net.parameters(6 * channels, 8)), perm=[0, 2, 3, 1])
            rows.append(net.op("Reshape", y, net.ints(1, -1, channels)))
    joined = net.op("Softmax", net.op("Concat", *scores, axis=1), axis=2)
    return net.model(net.op("Concat", *boxes, axis=1), joined)


def fcos(raw: bool = False) -> onnx.ModelProto:
    """One location a cell; classes, distances and centerness from heads shared over the levels."""
    net = Net(128)
    heads = [(channels, net.parameters(channels, 8)) for channels in (80, 4, 1)]
    features = net.backbone(5)
    outputs = [[net.conv(x, parameters) for x in features] for _, parameters in heads]
    if raw:
        return net.model(*(name for head in outputs for name in head))
    joined = [[net.rows(y, channels) for y in head] for (channels, _), head in zip(heads, outputs, strict=True)]
    return net.model(*(net.op("Concat", *rows, axis=1) for rows in joined))


def rpn() -> onnx.ModelProto:
    """A region proposal network, as in Faster R-CNN: 1 x 1 heads on one shared conv, a single score."""
    net = Net(128)
    shared, score, box = net.parameters(8, 8), net.parameters(3, 8, 1), net.parameters(12, 8, 1)
    towers = [net.op("Relu", net.conv(x, shared)) for x in net.backbone(5)]
    rows = [[net.rows(net.conv(x, p, kernel=1), c) for x in towers] for p, c in ((score, 1), (box, 4))]
    return net.model(*(net.op("Concat", *head, axis=1) for head in rows))


def nothing_like_an_image() -> onnx.ModelProto:
    net = Net()
    net.images.type.tensor_type.shape.ClearField("dim")
    net.images.type.tensor_type.shape.dim.add(dim_value=16)
    return net.model(net.op("Relu", "images"))


OTHERS: dict[str, Callable[[], onnx.ModelProto]] = {
    "classifier": classifier,
    "segmentation": segmentation,
    "yolo v5": yolo_v5,
    "yolo v8": yolo_v8,
    "ssd": ssd,
    "ssd, transposed": ssd_transposed,
    "fcos": fcos,
    "fcos, raw": lambda: fcos(raw=True),
    "rpn": rpn,
    "no image": nothing_like_an_image,
}


@pytest.fixture(scope="module", params=OTHERS)
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("other") / "m.onnx"
    model = OTHERS[request.param]()
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path


# Other networks


def test_another_network_is_no_detector_of_ours(other: Path) -> None:
    started = time.monotonic()
    with pytest.raises(NotADetector, match=r"--spec spec\.json: family, labels"):
        import_model(load_onnx(other))
    assert time.monotonic() - started < SECONDS


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_takes_it_when_told_to(family: str, other: Path) -> None:
    with pytest.raises(ModelError, match=r"."):
        import_model(load_onnx(other), family=family)


@pytest.mark.parametrize("family", FAMILIES)
def test_another_familys_graph(family: str) -> None:
    """A RetinaNet of ours without its metadata, outputs as every family may name them."""
    model, _ = tiny_model()
    del model.metadata_props[:]
    with pytest.raises(ModelError, match=r"DetectorSpec|no RetinaNet heads|--spec"):
        import_model(Source(model, ""), family=family)


# The command


@pytest.fixture
def edge_retina(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Any]:
    """The command, in this process and an empty folder: exit code and what it says on stderr."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["edge-retina", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capfd.readouterr()
        assert out == ""
        assert isinstance(caught.value.code, int)
        return caught.value.code, err

    yield run
    signal.signal(signal.SIGTERM, before)


def refused(result: tuple[int, str], *parts: str, code: int = MODEL_EXIT) -> None:
    """One message, the exit code of its class, no traceback."""
    assert result[0] == code, result[1]
    assert result[1].startswith("edge-retina: ")
    assert result[1].count("\n") == 1
    for no in ("Traceback", "unexpected", "please report"):
        assert no not in result[1]
    for part in parts:
        assert part in result[1]


@pytest.mark.parametrize("command", ["inspect", "build"])
def test_the_command_says_so(command: str, other: Path, edge_retina: Any) -> None:
    refused(edge_retina(command, other), "no RetinaNet heads found", "Found inputs: images", "--spec")


def test_the_command_with_a_family(other: Path, edge_retina: Any) -> None:
    refused(edge_retina("inspect", other, "--family", "torchvision"), "families tried: torchvision)")
    refused(edge_retina("inspect", other, "--family", "yolo"), "use one of edge_retina, torchvision", code=2)


# Files


WHOLE = tiny_model()[0].SerializeToString()


def html(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html><body>404</body></html>")


def lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")


def checkpoint(path: Path) -> None:
    path.write_bytes(b"PK\3\4" + bytes(26) + b"archive/data.pkl" + bytes(100))


def two_gigabytes(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**31)


def zeros_after(path: Path) -> None:
    """An ONNX that goes on with zeros."""
    with path.open("wb") as file:
        file.write(WHOLE)
        file.truncate(2**28)


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda path: path.touch(), "an empty or truncated file?"),
    "text": (lambda path: path.write_text("hello"), "does not parse"),
    "html": (html, "does not parse"),
    "lfs": (lfs_pointer, "run: git lfs pull"),
    "checkpoint": (checkpoint, "a PyTorch checkpoint has to be exported"),
    "missing": (lambda path: None, "cannot be read: No such file"),
    "2 GiB": (two_gigabytes, "store its weights as external data"),
    "zeros": (zeros_after, "does not parse"),
    "half": (lambda path: path.write_bytes(WHOLE[: len(WHOLE) // 2]), "does not parse"),
    "directory": (lambda path: path.mkdir(), "found a folder"),
    "pipe": (os.mkfifo, "found a folder or a device"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("command", ["inspect", "build"])
def test_a_file_that_is_none(command: str, kind: str, tmp_path: Path, edge_retina: Any) -> None:
    make, message = FILES[kind]
    make(tmp_path / "m.onnx")
    started = time.monotonic()
    if (command, kind) == ("inspect", "checkpoint"):  # a zip is taken for a bundle
        refused(edge_retina(command, tmp_path / "m.onnx"), "manifest.json", code=BundleError.exit_code)
    else:
        refused(edge_retina(command, tmp_path / "m.onnx"), message)
    assert time.monotonic() - started < SECONDS


@pytest.mark.parametrize("name", ["tiny", "tv_v1_raw_dynamo"])
def test_cut_short_anywhere(name: str, tmp_path: Path) -> None:
    data = WHOLE if name == "tiny" else (FIXTURES / f"{name}.onnx").read_bytes()
    path = tmp_path / "m.onnx"
    for length in {*range(0, len(data), len(data) // 60), *range(len(data) - 40, len(data))}:
        path.write_bytes(data[:length])
        with pytest.raises(ModelError):
            import_model(load_onnx(path))


# External data


def outside(folder: Path, location: str = "m.data", **entries: str) -> Path:
    """A model whose weights are in a second file, said to be at `location`."""
    onnx.save(tiny_model()[0], folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    model = onnx.load(folder / "m.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = {"location": location, **entries}.get(entry.key, entry.value)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


@pytest.mark.parametrize("location", ["../m.data", "/etc/passwd", "/dev/zero", "a/../../m.data", "./../m.data"])
def test_weights_outside_the_folder_are_not_read(location: str, tmp_path: Path, edge_retina: Any) -> None:
    (tmp_path / "inner").mkdir()
    path = outside(tmp_path / "inner", location)
    os.rename(tmp_path / "inner" / "m.data", tmp_path / "m.data")
    refused(edge_retina("inspect", path), "outside the model's folder; put it there")


def test_a_link_out_of_the_folder(tmp_path: Path, edge_retina: Any) -> None:
    path = outside(tmp_path)
    (tmp_path / "m.data").unlink()
    (tmp_path / "m.data").symlink_to("/etc/hostname")
    refused(edge_retina("inspect", path), "in a second file that cannot be read")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "gone.data"}, "gone.data"),
        ({"location": ""}, "in a second file that cannot be read"),
        ({"location": "folder"}, "is no file"),
        ({"location": "pipe"}, "is no file"),
        ({"offset": "-1"}, "in a second file that cannot be read"),
        ({"offset": str(2**40)}, "in a second file that cannot be read"),
        ({"length": "nonsense"}, "in a second file that cannot be read"),
        ({"length": str(2**40)}, "2 GiB is the most"),
        ({"length": "9" * 5000}, "in a second file that cannot be read"),
        ({"length": "4"}, "too small"),
    ],
)
def test_weights_that_are_not_there(entries: dict[str, str], message: str, tmp_path: Path, edge_retina: Any) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    refused(edge_retina("inspect", outside(tmp_path, **entries)), message)


def test_weights_beside_a_constant_node(tmp_path: Path) -> None:
    """Any tensor can lie outside; all of them make the digest."""
    digests = []
    for value in (1.0, 2.0):
        model, _ = tiny_model()
        constant = helper.make_node("Constant", [], ["unused"], value=numpy_helper.from_array(np.float32([value])))
        model.graph.node.append(constant)
        tensor = model.graph.node[-1].attribute[0].t
        (tmp_path / "c.data").write_bytes(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="c.data")
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        digests.append(load_onnx(tmp_path / "m.onnx").digest)
    assert digests[0] != digests[1]


# Specs that are not the graph's


def described(heads: bool) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """A graph without metadata, and a spec file that fits it."""
    model, spec = tiny_model(classes=5)
    del model.metadata_props[:]
    data = spec.to_dict()
    if heads:
        names = [output.name for output in model.graph.output]
        data["heads"] = {"trunk_input": "images", "logits": names[:2], "deltas": names[2:]}
    return model, data


def swapped(data: dict[str, Any]) -> None:
    data["heads"]["logits"], data["heads"]["deltas"] = data["heads"]["deltas"], data["heads"]["logits"]


def coarse_first(data: dict[str, Any]) -> None:
    data["heads"]["logits"].reverse()


WRONG: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a label too many": lambda data: data["labels"].append("more"),
    "a label too few": lambda data: data["labels"].pop(),
    "an anchor too few": lambda data: [cell.pop() for cell in data["cell_anchors"]],
    "an anchor too many": lambda data: [cell.append(cell[0]) for cell in data["cell_anchors"]],
    "another input": lambda data: data.update(input_size=[64, 96]),
    "sides swapped": lambda data: data.update(level_shapes=[[8, 4], [4, 8]]),
    "coarser levels": lambda data: data.update(level_shapes=[[4, 4], [2, 2]]),
    "levels in reverse": lambda data: data["level_shapes"].reverse(),
    "a level too many": lambda data: [data[k].append(data[k][-1]) for k in ("strides", "level_shapes", "cell_anchors")],
    "a level too few": lambda data: [data[k].pop() for k in ("strides", "level_shapes", "cell_anchors")],
    "strides of another level count": lambda data: data["strides"].pop(),
    "an unknown field": lambda data: data.update(anchors=9),
    "a word for a number": lambda data: data.update(mean="imagenet"),
    "mean of one channel": lambda data: data.update(mean=[0.5]),
    "std of zero": lambda data: data.update(std=[0, 0, 0]),
    "an unknown choice": lambda data: data.update(color_order="grb"),
    "anchors inside out": lambda data: data["cell_anchors"][0][0].reverse(),
}
WRONG_HEADS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "heads swapped": swapped,
    "heads in reverse": coarse_first,
    "a head that is not there": lambda data: data["heads"]["deltas"].__setitem__(1, "gone"),
    "a head too few": lambda data: data["heads"]["deltas"].pop(),
    "an input that is not there": lambda data: data["heads"].update(trunk_input="gone"),
    "an input behind the heads": lambda data: data["heads"].update(trunk_input="logits_3"),
    "a name for a list": lambda data: data["heads"].update(logits="logits_3"),
    "another layout": lambda data: data["heads"].update(heads="nhwc"),
    "rows": lambda data: data["heads"].update(heads="rows"),
    "an unknown layout": lambda data: data["heads"].update(heads="hwc"),
    "no heads": lambda data: data.update(heads={}),
}


@pytest.mark.parametrize(
    ("wrong", "heads"),
    [*((name, heads) for name in WRONG for heads in (False, True)), *((n, True) for n in WRONG_HEADS)],
)
def test_a_spec_that_is_not_the_graphs(wrong: str, heads: bool, tmp_path: Path, edge_retina: Any) -> None:
    model, data = described(heads)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    fits = json.dumps(data)
    {**WRONG, **WRONG_HEADS}[wrong](data)
    (tmp_path / "fits.json").write_text(fits)
    (tmp_path / "spec.json").write_text(json.dumps(data))
    refused(edge_retina("build", tmp_path / "m.onnx", "--spec", tmp_path / "spec.json"))
    assert not (tmp_path / "m.edge").exists()
    assert import_model(load_onnx(tmp_path / "m.onnx"), overrides=json.loads(fits)).spec.num_classes == 5


@pytest.mark.parametrize("wrong", WRONG)
def test_metadata_that_are_not_the_graphs(wrong: str, tmp_path: Path) -> None:
    model, data = described(heads=False)
    WRONG[wrong](data)
    helper.set_model_props(model, {"edge_retina.spec": json.dumps(data)})
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(SpecError):
        import_model(load_onnx(tmp_path / "m.onnx"))


@pytest.mark.parametrize(
    "values",
    [
        {"labels": ["a", "b"]},
        {"cell_anchors": [[[-1, -1, 1, 1]]] * 5},
        {"input_size": [224, 160]},
        {"level_shapes": [[28, 20], [14, 10], [7, 5], [4, 3], [2, 2]]},
        {"strides": [[8, 8]]},
        {"heads": {"trunk_input": "images", "logits": ["gone"] * 5, "deltas": ["gone"] * 5}},
    ],
)
def test_a_person_contradicts_a_family(values: dict[str, Any], edge_retina: Any, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(values))
    model = FIXTURES / "tv_v1_raw_dynamo.onnx"
    refused(edge_retina("build", model, "--spec", tmp_path / "spec.json", "-o", tmp_path / "m.edge"))


def test_heads_that_need_more_than_the_picture(tmp_path: Path) -> None:
    """A second input, such as the image size of some exports, cannot come from a camera."""
    model, _ = tiny_model()
    model.graph.input.append(helper.make_tensor_value_info("gain", TensorProto.FLOAT, []))
    model.graph.node.insert(1, helper.make_node("Mul", ["stem", "gain"], ["more"]))
    model.graph.node[2].input[0] = "more"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"the heads depend on more than 'images': .*gain"):
        build(tmp_path / "m.onnx")
