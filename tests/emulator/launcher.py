"""The plugin's launcher as a function of NumPy arrays, on the emulator."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_retina.geometry import Geometry
from edge_retina.rewrite.decode import call_attributes
from edge_retina.spec import DetectorSpec

LEVELS, CELL_ANCHORS = 8, 64
ELEMENTS = {"float": (0, np.float32), "half": (1, np.float16), "int8": (2, np.int8)}
CODINGS, CLIPS = ("center", "corner"), ("content", "input", "pixels", "after_nms", "none")
CHOICES, SCOPES = ("every", "best"), ("level", "all")

_i, _f, _p = ctypes.c_int32, ctypes.c_float, ctypes.c_void_p


class Level(ctypes.Structure):
    _fields_ = [(name, _i) for name in ("height", "width", "stride_y", "stride_x", "anchors_per_cell")]


class Params(ctypes.Structure):
    _fields_ = [
        ("level_count", _i),
        ("levels", Level * LEVELS),
        ("cell_anchors", _f * 4 * CELL_ANCHORS * LEVELS),
        ("classes", _i),
        ("delta_weights", _f * 4),
        ("max_log_scale", _f),
        ("score_threshold", _f),
        ("nms_iou", _f),
        ("box_coding", _i),
        ("clip", _i),
        ("class_choice", _i),
        ("top_k_scope", _i),
        ("inclusive_pixels", _i),
        ("drop_empty", _i),
        ("class_aware", _i),
        ("top_k", _i),
        ("max_detections", _i),
        ("input_height", _i),
        ("input_width", _i),
    ]


class HeadFormat(ctypes.Structure):
    _fields_ = [("element", _i), ("pack", _i), ("scale", _f)]


class Formats(ctypes.Structure):
    _fields_ = [("logits", HeadFormat * LEVELS), ("deltas", HeadFormat * LEVELS)]


class Inputs(ctypes.Structure):
    _fields_ = [("logits", _p * LEVELS), ("deltas", _p * LEVELS), ("geometry", _p)]


class Outputs(ctypes.Structure):
    _fields_ = [("boxes", _p), ("scores", _p), ("labels", _p), ("count", _p)]


@dataclass(frozen=True)
class Layout:
    """How head tensors lie in memory.

    element: one of ELEMENTS. pack: channels side by side; 1 is NCHW, 0 is kHWC8 (all, rounded up to 8), -1 is kHWC
    (all). scale: of int8. shift: bytes that the first element lies past a 16-byte boundary.
    """

    element: str = "float"
    pack: int = 1
    scale: float = 1.0
    shift: int = 0

    def values(self, head: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """What the kernels will see of a head tensor, as float32."""
        if self.element == "int8":
            return np.clip(np.rint(head / self.scale), -128, 127).astype(np.float32) * np.float32(self.scale)
        with np.errstate(over="ignore"):
            return head.astype(ELEMENTS[self.element][1]).astype(np.float32)

    def pack_of(self, channels: int) -> int:
        return {0: -(-channels // 8) * 8, -1: channels}.get(self.pack, self.pack)

    def lay(self, head: npt.NDArray[np.floating]) -> npt.NDArray[np.generic]:
        """(B, C, H, W) as (B, ceil(C / pack), H, W, pack), what pads being the best logits there are."""
        dtype = ELEMENTS[self.element][1]
        with np.errstate(over="ignore"):
            values = self.values(head) / np.float32(self.scale) if self.element == "int8" else head
            stored = np.rint(values).astype(dtype) if self.element == "int8" else values.astype(dtype)
        batch, channels, height, width = stored.shape
        pack = self.pack_of(channels)
        groups = -(-channels // pack)
        padded = np.full((batch, groups * pack, height, width), 100, dtype)
        padded[:, :channels] = stored
        packed = padded.reshape(batch, groups, pack, height, width).transpose(0, 1, 3, 4, 2)
        return _at_shift(np.ascontiguousarray(packed), self.shift)


def _at_shift(array: npt.NDArray[np.generic], shift: int) -> npt.NDArray[np.generic]:
    """The array's copy, its first byte `shift` past a 16-byte boundary."""
    memory = np.zeros(array.nbytes + 32, np.uint8)
    start = -memory.ctypes.data % 16 + shift
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _filled(shape: tuple[int, ...], dtype: type, byte: int) -> npt.NDArray[np.generic]:
    return _at_shift(np.full(4 * int(np.prod(shape)), byte, np.uint8).view(dtype).reshape(shape), 0)


@dataclass(frozen=True)
class Run:
    """What one launch gave: outputs as design.md has them, and what the emulator counted.

    loads: for each level, how often each logit was read, laid out as the logits were. used: bytes of workspace written.
    arguments: bytes, of the kernel with most.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    count: npt.NDArray[np.int32]
    loads: list[npt.NDArray[np.uint32]]
    launches: int
    arguments: int
    workspace: int
    used: int

    @property
    def bytes(self) -> bytes:
        return b"".join(v.tobytes() for v in (self.boxes, self.scores, self.labels, self.count))


def params_of(spec: DetectorSpec) -> Params:
    """A spec's call attributes as the launcher takes them."""
    given = call_attributes(spec)
    params = Params()
    params.level_count = spec.num_levels
    flat = iter(given["cell_anchors"])
    for i, per_cell in enumerate(given["anchors_per_cell"]):
        shape, stride = given["level_shapes"][2 * i : 2 * i + 2], given["strides"][2 * i : 2 * i + 2]
        params.levels[i] = Level(*shape, *stride, per_cell)
        for a in range(per_cell):
            for side in range(4):
                params.cell_anchors[i][a][side] = next(flat)
    params.classes = given["num_classes"]
    params.delta_weights = (_f * 4)(*given["delta_weights"])
    for name in ("max_log_scale", "score_threshold", "nms_iou", "inclusive_pixels", "drop_empty", "top_k"):
        setattr(params, name, given[name])
    params.class_aware, params.max_detections = given["class_aware_nms"], given["max_detections"]
    params.box_coding, params.clip = CODINGS.index(given["box_coding"]), CLIPS.index(given["clip"])
    params.class_choice, params.top_k_scope = CHOICES.index(given["class_choice"]), SCOPES.index(given["top_k_scope"])
    params.input_height, params.input_width = spec.input_size
    return params


def formats_of(spec: DetectorSpec, logits: Layout = Layout(), deltas: Layout = Layout()) -> Formats:
    formats = Formats()
    for i, cell in enumerate(spec.cell_anchors):
        for kind, layout, channels in (("logits", logits, spec.num_classes), ("deltas", deltas, 4)):
            format_ = HeadFormat(ELEMENTS[layout.element][0], layout.pack_of(len(cell) * channels), layout.scale)
            getattr(formats, kind)[i] = format_
    return formats


class Emulator:
    """A build of the launcher."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        for name, result, arguments in (
            ("sizes", ctypes.c_size_t, [ctypes.c_int]),
            ("check", ctypes.c_char_p, [_p, _p, ctypes.c_int]),
            ("workspace", ctypes.c_size_t, [_p, _p, ctypes.c_int]),
            ("run", ctypes.c_int, [_p, _p, ctypes.c_int, _p, _p, _p]),
            ("lowest_logit", _f, [_f]),
            ("watch", _p, [_p, ctypes.c_size_t, ctypes.c_size_t]),
            ("loads", None, [ctypes.c_int, _p]),
            ("unwatch", None, []),
            ("launches", ctypes.c_size_t, []),
            ("largest_arguments", ctypes.c_size_t, [ctypes.c_size_t]),
        ):
            function = getattr(self.library, f"emulator_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, f"_{name}", function)
        for which, structure in enumerate((Params, Formats, Inputs, Outputs)):
            assert self._sizes(which) == ctypes.sizeof(structure)

    def check(self, params: Params, formats: Formats, batch: int = 1) -> str | None:
        """Why the launcher refuses, or None."""
        problem = self._check(ctypes.byref(params), ctypes.byref(formats), batch)
        return problem.decode() if problem else None

    def workspace(self, params: Params, formats: Formats, batch: int = 1) -> int:
        return self._workspace(ctypes.byref(params), ctypes.byref(formats), batch)

    def launch_error(self, params: Params, formats: Formats) -> int:
        """What a launch without any memory returns; for what is refused before memory is looked at."""
        inputs, outputs = Inputs(), Outputs()
        return self._run(*map(ctypes.byref, (params, formats)), 1, ctypes.byref(inputs), ctypes.byref(outputs), None)

    def lowest_logit(self, threshold: float) -> float:
        """The logit from which on the scan looks at pairs; NaN: at none."""
        return self._lowest_logit(threshold)

    def __call__(
        self,
        spec: DetectorSpec,
        logits: Sequence[npt.NDArray[np.floating]],
        deltas: Sequence[npt.NDArray[np.floating]],
        geometry: Geometry,
        *,
        layout: Layout = Layout(),
        delta_layout: Layout = Layout(),
        seed: int = 0,
        fill: int = 0xA5,
    ) -> Run:
        """One launch. seed: of the order of blocks and threads. fill: byte that workspace and outputs hold before."""
        params, formats = params_of(spec), formats_of(spec, layout, delta_layout)
        batch, rows = len(logits[0]), spec.max_detections
        heads = [layout.lay(v) for v in logits], [delta_layout.lay(v) for v in deltas]
        vector = np.array(geometry.vector(), np.float32)
        inputs = Inputs()
        for level in range(spec.num_levels):
            inputs.logits[level] = self._watched(heads[0][level])
        for level in range(spec.num_levels):
            inputs.deltas[level] = self._watched(heads[1][level])
        inputs.geometry = self._watched(vector)

        size = self.workspace(params, formats, batch)
        assert size > 0, self.check(params, formats, batch)
        memory = np.full(size + 256 + 4096, fill, np.uint8)
        start = -memory.ctypes.data % 256
        shapes = ((batch, rows, 4), (batch, rows), (batch, rows), (batch,))
        types = (np.float32, np.float32, np.int32, np.int32)
        results = [_filled(shape, dtype, fill) for shape, dtype in zip(shapes, types, strict=True)]
        outputs = Outputs(*(v.ctypes.data for v in results))
        before = self._launches()
        os.environ["EMULATOR_SEED"] = str(seed)
        error = self._run(
            ctypes.byref(params),
            ctypes.byref(formats),
            batch,
            ctypes.byref(inputs),
            ctypes.byref(outputs),
            memory.ctypes.data + start,
        )
        assert error == 0, f"CUDA error {error}"
        assert (memory[:start] == fill).all()
        assert (memory[start + size :] == fill).all(), "the kernels wrote past their workspace"
        touched = np.flatnonzero(memory != fill)
        used = int(touched[-1]) + 1 - start if len(touched) else 0
        loads = []
        for level, head in enumerate(heads[0]):
            counts = np.zeros(head.shape, np.uint32)
            self._loads(level, counts.ctypes.data)
            loads.append(counts)
        self._unwatch()
        return Run(*results, loads, self._launches() - before, self._largest_arguments(before), size, used)

    def _watched(self, array: npt.NDArray[np.generic]) -> int:
        return self._watch(array.ctypes.data, array.nbytes, array.itemsize)
