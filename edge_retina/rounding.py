"""Weights rounded for what they do to a layer's output: each code makes up for the errors of those before it.

Optimal Brain Quantization with a fixed order of columns: Frantar and Alistarh 2022, Frantar et al. 2023 (GPTQ). Here
the inputs are those of the INT8 graph, and since Quantizer.bias gives back what the codes do to an output's mean, only
what they do to its variance counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from edge_retina.calibrate.staged import run_stages, split
from edge_retina.errors import InputError, ModelError
from edge_retina.quantize import Quantizer
from edge_retina.rewrite.placement import layer_name
from edge_retina.types import F32, U8
from edge_retina.weights import QuantizedWeight

__all__ = ["hessians", "round_weight", "round_weights"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

# Columns of one Hessian: 128 input channels of a 3x3 convolution.
_COLUMNS = 1152
# Output positions of a convolution that one frame adds. Products of codes are at most 128^2, so that a sum of 512 of
# them is exact in float32: no BLAS and no number of threads changes a Hessian.
_POSITIONS = 512
# Added to the diagonal, as a share of its mean: the paper's.
_DAMPING = 0.01
# Correlations of few samples are half chance, so the diagonal grows by this times columns per sample. Found on digits:
# after 4 pictures the error on others fell from 0.91 to 0.69 of nearest's in the worst layer, after 64 it is the same.
_SHRINKAGE = 0.3
# Columns whose effect on all later ones is summed up before it is applied.
_LAZY = 64


@dataclass(frozen=True)
class _View:
    """How a convolution reads a tensor. Each is (y, x); pads are (top, left, bottom, right)."""

    tensor: str
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]

    @classmethod
    def of(cls, conv: gs.Node) -> _View:
        pair, kernel = (1, 1), conv.inputs[1].values.shape[2:]
        strides, dilations = conv.attrs.get("strides", pair), conv.attrs.get("dilations", pair)
        pads = conv.attrs.get("pads", (0, 0, 0, 0))
        return cls(conv.inputs[0].name, tuple(kernel), tuple(strides), tuple(dilations), tuple(pads))

    def patches(self, values: F32, turn: int) -> Iterable[F32]:
        """What some output positions see of (C, H, W): float32 (columns, positions), per block of input channels.

        turn: of the frame; each goes on in the sequence of positions where the one before it stopped.
        """
        top, left, bottom, right = self.pads
        padded = np.pad(values, ((0, 0), (top, bottom), (left, right)))
        height, width = padded.shape[1:]
        rows, columns = (
            (size - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, dilation in zip(
                (height, width), self.kernel, self.strides, self.dilations, strict=True
            )
        )
        y, x = np.divmod(_positions(rows * columns, turn), columns)
        corner = y * self.strides[0] * width + x * self.strides[1]
        inside = [
            i * self.dilations[0] * width + j * self.dilations[1]
            for i in range(self.kernel[0])
            for j in range(self.kernel[1])
        ]
        seen = np.array(inside)[:, None] + corner
        flat, channels = padded.reshape(len(padded), -1), _channels(self.kernel)
        for start in range(0, len(flat), channels):
            yield np.take(flat[start : start + channels], seen, axis=1).reshape(-1, len(corner))


class _Gathered:
    """What the same weights read: per block the summed products of the dequantized inputs, per view their sums."""

    def __init__(self, views: tuple[_View, ...], scales: Mapping[str, float]) -> None:
        self.views, self._scales = views, scales
        self._blocks: list[F64] = []
        self._sums: dict[_View, list[F64]] = {}
        self._count = dict.fromkeys(views, 0)

    def add(self, view: _View, codes: F32, turn: int) -> None:
        scale = self._scales[view.tensor]
        for i, patch in enumerate(view.patches(codes, turn)):
            product, total = patch @ patch.T, patch.sum(1, dtype=np.float64) * scale
            if i == len(self._blocks):
                self._blocks.append(np.zeros(product.shape))
            self._blocks[i] += product * scale**2
            sums = self._sums.setdefault(view, [])
            if i == len(sums):
                sums.append(np.zeros(len(total)))
            sums[i] += total
        self._count[view] += patch.shape[1]

    def result(self, means: Mapping[str, F64]) -> list[F64]:
        """The products about the means (C,) of each tensor; padding, too, is so far from the mean. Call once."""
        for view in self.views:
            mean, start = np.repeat(means[view.tensor], math.prod(view.kernel)), 0
            for block, total in zip(self._blocks, self._sums[view], strict=True):
                part = mean[start : start + len(block)]
                cross = np.outer(part, total)
                block += np.outer(part, part) * self._count[view] - cross - cross.T
                start += len(block)
        for block in self._blocks:
            diagonal = np.einsum("ii->i", block)
            diagonal *= 1 + _SHRINKAGE * len(block) / sum(self._count.values())
        return self._blocks


def hessians(
    quantizer: Quantizer, frames: Iterable[U8], *, on_frame: Callable[[], None] = lambda: None
) -> Mapping[str, list[F64]]:
    """Sums of x x^T over output positions, by weight; x: what the convolution sees there, quantized, less its mean.

    frames: uint8 (H, W, 3) BGR. A block (n, n) per 128 channels of a 3x3 convolution, n <= 1152 or one channel; what
    lies between blocks is taken for uncorrelated, and the diagonal is larger by 0.3 n / positions. Of each convolution
    512 positions of a frame; a weight that several convolutions share sums over all. Without grouped convolutions.
    on_frame is called after each. Raises InputError without frames, ModelError for NaN, RuntimeFailure.
    """
    placement, views = quantizer.everything, _views(quantizer)
    tensors = {view.tensor for read in views.values() for view in read}
    scales = {name: quantizer.scale(placement.observed[placement.groups[name]]) for name in sorted(tensors)}
    # Weights that read the same, as the first ones of both heads do, have the same Hessian.
    gathered = {read: _Gathered(read, scales) for read in views.values()}
    stages, turn = split(quantizer.model, tensors), 0

    def visit(name: str, values: F32) -> None:
        codes = np.clip(np.rint(values[0] / np.float32(scales[name])), -128, 127)
        if np.isnan(codes).any():
            raise ModelError(f"{name!r} is NaN on frame {turn}: INT8 has no code for it")
        for each in gathered.values():
            for view in each.views:
                if view.tensor == name:
                    each.add(view, codes, turn)

    for frame in frames:
        run_stages(stages, frame, visit)
        turn += 1
        on_frame()
    if not turn:
        raise InputError("rounding of weights wants pictures, found none; name them with --calib, 64 or more")
    factor = 1.0 if quantizer.recipe.correct_bias else 0.0
    means = {name: quantizer.statistics[name].mean * factor for name in tensors}
    blocks = {read: each.result(means) for read, each in gathered.items()}
    return {name: blocks[read] for name, read in views.items()}


def round_weight(weight: F32, blocks: Sequence[F64], *, levels: int, scales: F32) -> QuantizedWeight:
    """Codes of a weight (O, I, ...) whose squared error at the output is small, and never larger than rounding's.

    blocks: of `hessians`, along the columns of (O, I * ...). levels: largest code. scales: float32 (O,), kept as they
    are. Raises ValueError when blocks do not cover the columns.
    """
    flat = weight.reshape(len(weight), math.prod(weight.shape[1:])).astype(np.float64)
    sizes = [len(block) for block in blocks]
    if sum(sizes) != flat.shape[1]:
        raise ValueError(f"blocks want {flat.shape[1]} columns together, found {sizes}")
    wanted = (flat / scales[:, None].astype(np.float64)).T
    codes, start = np.empty_like(wanted), 0
    for block in blocks:
        part = slice(start, start + len(block))
        nearest, fed = _nearest(wanted[part], levels), _feed_forward(wanted[part], block, levels)
        better = _error(wanted[part] - fed, block) < _error(wanted[part] - nearest, block)
        codes[part] = np.where(better, fed, nearest)
        start = part.stop
    return QuantizedWeight(codes.T.astype(np.int8).reshape(weight.shape), scales)


def round_weights(
    quantizer: Quantizer, frames: Iterable[U8], *, on_frame: Callable[[], None] = lambda: None
) -> dict[str, QuantizedWeight]:
    """The weights of a quantizer rounded anew, by name, with its scales; to be given to another as `rounded`.

    frames, on_frame, errors: see `hessians`. Grouped convolutions are left out, so that they stay rounded to nearest.
    """
    found = hessians(quantizer, frames, on_frame=on_frame)
    convs = _convs(quantizer)
    result = {}
    for unit in quantizer.units():
        weight = convs[unit[0]].inputs[1]
        if weight.name in found:
            scales = quantizer.weights[weight.name].scales
            levels = quantizer.levels(unit)
            result[weight.name] = round_weight(weight.values, found[weight.name], levels=levels, scales=scales)
    return result


def _convs(quantizer: Quantizer) -> dict[str, gs.Node]:
    nodes = {layer_name(node): node for node in gs.import_onnx(quantizer.model).nodes}
    return {name: nodes[name] for name in quantizer.everything.convs}


def _views(quantizer: Quantizer) -> dict[str, tuple[_View, ...]]:
    """By weight, how its convolutions read their inputs."""
    found: dict[str, tuple[_View, ...]] = {}
    convs = _convs(quantizer)
    for unit in quantizer.units():
        nodes = [convs[name] for name in unit]
        plain = [n.attrs.get("group", 1) == 1 and n.attrs.get("auto_pad", "NOTSET") == "NOTSET" for n in nodes]
        weight = nodes[0].inputs[1]
        if all(plain) and len(weight.shape) == 4:
            found[weight.name] = tuple(dict.fromkeys(_View.of(node) for node in nodes))
    return found


def _channels(kernel: tuple[int, int]) -> int:
    """Input channels of a block."""
    return max(1, _COLUMNS // math.prod(kernel))


def _positions(total: int, turn: int) -> I64:
    """At most 512 of `total` positions, evenly spread, none twice; over the turns each comes equally often."""
    # Multiples of the golden ratio lie evenly in the unit interval however many there are.
    step = max(1, round(total * (math.sqrt(5) - 1) / 2))
    while math.gcd(step, total) > 1:
        step += 1
    count = min(total, _POSITIONS)
    return (np.arange(count) + turn * count) * step % total


def _nearest(values: F64, levels: int) -> F64:
    return np.asarray(np.clip(np.rint(values), -levels, levels))


def _error(difference: F64, block: F64) -> F64:
    """Of each output (O,), for differences (n, O)."""
    return np.asarray(np.einsum("no,no->o", difference, block @ difference))


def _feed_forward(wanted: F64, block: F64, levels: int) -> F64:
    """Codes (n, O) for values (n, O): row by row, those of large input first, the rest making up for each error."""
    diagonal = np.diag(block)
    order = np.argsort(-diagonal, kind="stable")
    damping = _DAMPING * diagonal.mean() if diagonal.any() else 1.0
    damped = block[np.ix_(order, order)] + damping * np.eye(len(block))
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    left, codes = wanted[order], np.empty_like(wanted)
    for start in range(0, len(left), _LAZY):
        stop = min(start + _LAZY, len(left))
        errors = np.empty((stop - start, left.shape[1]))
        for i in range(start, stop):
            code = codes[order[i]] = _nearest(left[i], levels)
            errors[i - start] = error = (left[i] - code) / upper[i, i]
            left[i + 1 : stop] -= np.outer(upper[i, i + 1 : stop], error)
        left[stop:] -= upper[start:stop, stop:].T @ errors
    return codes
