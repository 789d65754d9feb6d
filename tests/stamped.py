"""Pictures that tell when they were made: the monotonic clock's milliseconds as 32 black and white blocks."""

from __future__ import annotations

import time

import numpy as np

from edge_retina.types import U8

BLOCK = 16
COLUMNS, ROWS = 8, 4
LEAST = (ROWS * BLOCK, COLUMNS * BLOCK)  # H, W


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000 & 0xFFFFFFFF


def stamped(shape: tuple[int, int], number: int | None = None) -> U8:
    """A grey picture (H, W, 3) with the number, of this moment where none is given, at its upper left."""
    value = now_ms() if number is None else number
    image = np.full((*shape, 3), 96, np.uint8)
    bits = [(value >> (31 - i)) & 1 for i in range(32)]
    blocks = np.array(bits, np.uint8).reshape(ROWS, COLUMNS) * np.uint8(255)
    image[: LEAST[0], : LEAST[1]] = np.kron(blocks, np.ones((BLOCK, BLOCK), np.uint8))[..., None]
    return image


def read_stamp(image: U8) -> int:
    """The number in a picture, whatever a codec did to it; ValueError where a block is neither black nor white."""
    area = image[: LEAST[0], : LEAST[1]].astype(np.float32).mean(axis=2)
    middles = area.reshape(ROWS, BLOCK, COLUMNS, BLOCK)[:, 4:12, :, 4:12].mean(axis=(1, 3))
    if np.any((middles > 90) & (middles < 165)):
        raise ValueError(f"no stamp in this picture: {middles.round().tolist()}")
    value = 0
    for bit in (middles.reshape(-1) > 127).tolist():
        value = value << 1 | int(bit)
    return value


def age_ms(image: U8) -> int:
    """Milliseconds since the picture was made, on this machine."""
    return (now_ms() - read_stamp(image)) & 0xFFFFFFFF
