"""How a frame lies on the network input."""

from __future__ import annotations

from dataclasses import dataclass

from edge_retina.spec import DetectorSpec

__all__ = ["Geometry", "fit_frame"]


@dataclass(frozen=True)
class Geometry:
    """How a frame of one size lies on the network input; all integers, so every runtime agrees.

    frame: (H, W) source pixels. content: (H, W) of the resized frame, network-input pixels.
    offset: (y, x) of its top left corner there. Source x = (network x - offset x) * frame W / content W.
    """

    frame: tuple[int, int]
    content: tuple[int, int]
    offset: tuple[int, int]

    def vector(self) -> list[float]:
        """Offset x y, content w h, scale x y, frame w h: the `geometry` input of AnchorDecode, float32 [8]."""
        (h, w), (ch, cw), (oy, ox) = self.frame, self.content, self.offset
        return [ox, oy, cw, ch, w / cw, h / ch, w, h]


def fit_frame(spec: DetectorSpec, height: int, width: int) -> Geometry:
    """Where a height x width frame lands on the network input, by the spec's resize rule.

    letterbox: largest size that fits, aspect kept. shortest_side: the shorter side so long, unless the longer one
    would exceed its limit (torchvision's GeneralizedRCNNTransform), and no larger than fits the input. stretch: the
    whole input. Sides are rounded as spec.rounding says, in integers.
    """
    net_h, net_w = spec.input_size
    if spec.resize == "stretch":
        return Geometry((height, width), (net_h, net_w), (0, 0))
    # The scale is the smallest of some fractions num / den; fractions keep it exact.
    fractions = [(net_h, height), (net_w, width)]
    if spec.resize == "shortest_side" and spec.shortest_side is not None:
        shortest, longest = spec.shortest_side
        fractions += [(shortest, min(height, width)), (longest, max(height, width))]
    num, den = fractions[0]
    for n, d in fractions[1:]:
        if n * den < num * d:
            num, den = n, d
    half = 0 if spec.rounding == "floor" else den
    content_h = max(1, (2 * height * num + half) // (2 * den))
    content_w = max(1, (2 * width * num + half) // (2 * den))
    centred = spec.placement == "center"
    offset = ((net_h - content_h) // 2, (net_w - content_w) // 2) if centred else (0, 0)
    return Geometry((height, width), (content_h, content_w), offset)
