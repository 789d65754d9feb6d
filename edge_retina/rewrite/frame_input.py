"""Pass: let the graph take camera frames."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from edge_retina.geometry import fit_frame
from edge_retina.rewrite.emit import Emitter
from edge_retina.rewrite.heads import TRUNK_INPUT
from edge_retina.spec import DetectorSpec

__all__ = ["FRAMES", "GEOMETRY", "add_frame_input", "cast_first"]

FRAMES, GEOMETRY = "frames", "geometry"


def add_frame_input(graph: gs.Graph, spec: DetectorSpec, frame: tuple[int, int] | None = None) -> int:
    """Replace the float input by `frames`, uint8 [B, H, W, 3] BGR, preprocessed inside the graph.

    Rule: turn to planes, cast, fit by the spec's resize rule, normalise, pad, and hand over
    `geometry`, float32 [8] (Geometry.vector), for the decoder. frame: fixed (H, W), or None for any size.
    Padding is done after normalising about pad_value, so that it is a pad with zeros.
    Scope: main graph. Returns the number of nodes added; a second run returns 0.
    """
    if graph.inputs[0].name != TRUNK_INPUT:
        return 0
    trunk, before = graph.inputs[0], len(graph.nodes)
    emit = Emitter(graph, "frame")
    size = ["height", "width"] if frame is None else list(frame)
    frames = gs.Variable(FRAMES, np.uint8, ["batch", *size, 3])
    graph.inputs = [frames]
    if frame is None:
        sizes, pads, geometry = _dynamic(emit, frames, spec)
    else:
        sizes, pads, geometry = _fixed(emit, spec, frame)
    # Bytes are quicker to turn than floats, and planes to resize than pixels.
    x = emit("Transpose", frames, perm=[0, 3, 1, 2])
    if spec.color_order == "rgb":
        x = emit("Gather", x, np.array([2, 1, 0]), axis=1)
    x = emit.cast(x, np.float32)
    if sizes is not None:
        whole = emit("Concat", emit.slice(emit("Shape", x), 0, 0, 1), np.array([3]), sizes, axis=0)
        x = emit("Resize", x, None, None, whole, mode="linear", coordinate_transformation_mode="half_pixel")
    mean, std, pad = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in (spec.mean, spec.std, spec.pad_value))
    x = emit("Div", emit("Sub", x, pad), std)
    if pads is not None:
        x = emit("Pad", x, pads, np.float32(0))
    if (pad != mean).any():
        x = emit("Add", x, (pad - mean) / std)
    # The trunk stays static whatever the frame: its shapes are known again from here.
    x = emit.reshape(x, (-1, 3, *spec.input_size))
    x.dtype, x.shape = np.dtype(np.float32), ["batch", 3, *spec.input_size]
    for node in list(trunk.outputs):
        node.inputs = [x if t is trunk else t for t in node.inputs]
    vector = emit("Identity", geometry)
    vector.name, vector.dtype, vector.shape = GEOMETRY, np.dtype(np.float32), [8]
    graph.outputs.append(vector)
    graph.toposort()
    return len(graph.nodes) - before


def cast_first(graph: gs.Graph) -> int:
    """Cast frames before anything else is done to them: TensorRT takes uint8 inputs only so.

    Rule: the Cast to float32 behind `frames`, and behind what only moves its bytes, comes first. Scope: main graph.
    Returns the number of nodes that it was moved past; a second run returns 0.
    """
    frames = next((tensor for tensor in graph.inputs if tensor.name == FRAMES), None)
    if frames is None:
        return 0
    moves: list[gs.Node] = []
    at: gs.Tensor = frames
    while (reader := next((n for n in at.outputs if n.op in ("Transpose", "Gather")), None)) is not None:
        moves.append(reader)
        at = reader.outputs[0]
    cast = next((node for node in at.outputs if node.op == "Cast"), None)
    if cast is None or not moves:
        return 0
    behind, floats = cast.outputs[0], gs.Variable(f"{FRAMES}/float", np.float32)
    for node in list(behind.outputs):
        node.inputs = [at if tensor is behind else tensor for tensor in node.inputs]
    moves[0].inputs = [floats if tensor is frames else tensor for tensor in moves[0].inputs]
    cast.inputs, cast.outputs = [frames], [floats]
    for node in moves:
        node.outputs[0].dtype = np.dtype(np.float32)
    graph.toposort()
    return len(moves)


def _fixed(
    emit: Emitter, spec: DetectorSpec, frame: tuple[int, int]
) -> tuple[gs.Tensor | None, gs.Tensor | None, gs.Tensor]:
    """Content size, pads and geometry as constants; None where there is nothing to do."""
    fit = fit_frame(spec, *frame)
    (net_h, net_w), (content_h, content_w), (top, left) = spec.input_size, fit.content, fit.offset
    sizes = None if fit.content == frame else emit.constant(np.array(fit.content))
    pads = [0, 0, top, left, 0, 0, net_h - content_h - top, net_w - content_w - left]
    geometry = emit.constant(np.array(fit.vector(), np.float32))
    return sizes, emit.constant(np.array(pads)) if any(pads) else None, geometry


def _dynamic(emit: Emitter, frames: gs.Tensor, spec: DetectorSpec) -> tuple[gs.Tensor, gs.Tensor, gs.Tensor]:
    """Content size, pads and geometry from the frame's shape, in integers: fit_frame, said in ONNX."""
    net = np.array(spec.input_size)
    size = emit.slice(emit("Shape", frames), 0, 1, 3)
    if spec.resize == "stretch":
        content: gs.Tensor = emit.constant(net)
    else:
        # Candidate fractions num / den, shaped (n,); the smallest gives the scale.
        num, den = emit.constant(net), size
        if spec.resize == "shortest_side":
            num = emit.constant(np.array([*net, *(spec.shortest_side or ())]))
            shortest = emit("Min", emit.slice(size, 0, 0, 1), emit.slice(size, 0, 1, 2))
            longest = emit("Max", emit.slice(size, 0, 0, 1), emit.slice(size, 0, 1, 2))
            den = emit("Concat", size, shortest, longest, axis=0)
        # floor or round of size * num / den for every fraction at once: the smallest fraction gives the smallest sizes.
        column = emit.unsqueeze(den, 1)
        twice = emit("Mul", emit("Mul", emit.unsqueeze(size, 0), emit.unsqueeze(num, 1)), np.array(2))
        if spec.rounding == "half_up":
            twice = emit("Add", twice, column)
        every = emit("Div", twice, emit("Mul", column, np.array(2)))
        content = emit("Max", emit.reduce("ReduceMin", every, 0), np.array([1, 1]))
    spare = emit("Sub", net, content)
    if spec.placement == "center":
        offset: gs.Tensor = emit("Div", spare, np.array(2))
    else:
        offset = emit.constant(np.array([0, 0]))
    zeros = np.array([0, 0])
    pads = emit("Concat", zeros, offset, zeros, emit("Sub", spare, offset), axis=0)

    def xy(pair: gs.Tensor) -> gs.Variable:
        return emit.cast(emit("Gather", pair, np.array([1, 0])), np.float32)

    frame_xy, content_xy = xy(size), xy(content)
    scale = emit("Div", frame_xy, content_xy)
    return content, pads, emit("Concat", xy(offset), content_xy, scale, frame_xy, axis=0)
