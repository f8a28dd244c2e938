"""Makes `digits.onnx`, a classifier of 12x12 pictures of digits, `samples.h`, one picture of each, and `calibration.npz`, some more for
`--calibrate`: `python make_digits.py [FOLDER]`.

The pictures are a font of 5x7 dots, moved, thickened, dimmed and covered with noise. The network, 2,698 weights, is trained here in a few
seconds; nothing is downloaded. The files are in the repository, so that the examples need nothing but lepton.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FONT = """
.###. ..#.. .###. ##### ...#. ##### ..##. ##### .###. .###.
#...# .##.. #...# ...#. ..##. #.... .#... ....# #...# #...#
#..## ..#.. ....# ..#.. .#.#. ####. #.... ...#. #...# #...#
#.#.# ..#.. ...#. ...#. #..#. ....# ####. ..#.. .###. .####
##..# ..#.. ..#.. ....# ##### ....# #...# .#... #...# ....#
#...# ..#.. .#... #...# ...#. #...# #...# .#... #...# ...#.
.###. .###. ##### .###. ...#. .###. .###. .#... .###. .##..
"""
SIDE, CHANNELS, CLASSES = 12, (8, 16), 10


def pictures(rng: np.random.Generator, digits: np.ndarray) -> np.ndarray:
    """A picture, float32[n,1,12,12] between 0 and 1, of each digit of int64[n]."""
    dots = np.array([[[c == "#" for c in glyph] for glyph in row.split()] for row in FONT.split("\n")[1:-1]], np.float32)  # [7,10,5]
    result = np.zeros((len(digits), 1, SIDE, SIDE), np.float32)
    for picture, digit in zip(result[:, 0], digits, strict=True):
        top, left = rng.integers(0, SIDE - 7 + 1), rng.integers(0, SIDE - 5 + 1)
        picture[top : top + 7, left : left + 5] = dots[:, digit]
        if rng.random() < 0.3:
            picture[:, 1:] = np.maximum(picture[:, 1:], picture[:, :-1])
        picture *= rng.uniform(0.6, 1)
    return np.clip(result + rng.normal(0, 0.1, result.shape), 0, 1).astype(np.float32)


def patches(x: np.ndarray) -> np.ndarray:
    """What a 3x3 convolution of stride 2 and padding 1 sees: [n,c,h,w] to [n,h/2,w/2,c*9]."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(len(x), windows.shape[2], windows.shape[3], -1)


def unpatch(gradient: np.ndarray, channels: int) -> np.ndarray:
    """The transpose of `patches`."""
    n, h, w, _ = gradient.shape
    parts, result = gradient.reshape(n, h, w, channels, 3, 3), np.zeros((n, channels, 2 * h + 2, 2 * w + 2), np.float32)
    for i in range(3):
        for j in range(3):
            result[:, :, i : i + 2 * h : 2, j : j + 2 * w : 2] += parts[..., i, j].transpose(0, 3, 1, 2)
    return result[:, :, 1:-1, 1:-1]


def train(rng: np.random.Generator, steps: int = 4000, batch: int = 64) -> list[np.ndarray]:
    """Weights and biases of two convolutions and a dense layer, by Adam."""
    sizes = [9, CHANNELS[0] * 9, CHANNELS[1] * (SIDE // 4) ** 2]
    widths = [*CHANNELS, CLASSES]
    weights = [a for n, m in zip(sizes, widths, strict=True) for a in (rng.normal(0, (2 / n) ** 0.5, (n, m)), np.zeros(m))]
    weights = [a.astype(np.float32) for a in weights]
    means, squares = ([np.zeros_like(a) for a in weights] for _ in range(2))
    for step in range(1, steps + 1):
        digits = rng.integers(0, 10, batch)
        for k, gradient in enumerate(gradients(weights, pictures(rng, digits), digits)):
            means[k] = 0.9 * means[k] + 0.1 * gradient
            squares[k] = 0.99 * squares[k] + 0.01 * gradient**2
            rate = 0.005 * (1 - step / (steps + 1))
            weights[k] -= (rate * means[k] / (1 - 0.9**step) / (np.sqrt(squares[k] / (1 - 0.99**step)) + 1e-7)).astype(np.float32)
    return weights


def gradients(weights: list[np.ndarray], x: np.ndarray, digits: np.ndarray) -> list[np.ndarray]:
    """Of the mean cross entropy."""
    w1, b1, w2, b2, w3, b3 = weights
    p1 = patches(x)
    h1 = np.maximum(p1 @ w1 + b1, 0)
    p2 = patches(h1.transpose(0, 3, 1, 2))
    h2 = np.maximum(p2 @ w2 + b2, 0)
    flat = h2.transpose(0, 3, 1, 2).reshape(len(x), -1)
    scores = flat @ w3 + b3
    d3 = np.exp(scores - scores.max(axis=1, keepdims=True))
    d3 /= d3.sum(axis=1, keepdims=True)
    d3[np.arange(len(x)), digits] -= 1
    d3 /= len(x)
    d2 = (d3 @ w3.T).reshape(len(x), CHANNELS[1], *h2.shape[1:3]).transpose(0, 2, 3, 1) * (h2 > 0)
    d1 = unpatch(d2 @ w2.T, CHANNELS[0]).transpose(0, 2, 3, 1) * (h1 > 0)
    axes = ([0, 1, 2], [0, 1, 2])
    return [np.tensordot(p1, d1, axes), d1.sum((0, 1, 2)), np.tensordot(p2, d2, axes), d2.sum((0, 1, 2)), flat.T @ d3, d3.sum(0)]


def model(weights: list[np.ndarray]) -> onnx.ModelProto:
    """`image` float32[1,1,12,12] to `probabilities` float32[1,10]."""
    w1, b1, w2, b2, w3, b3 = weights
    constants = {
        "w1": w1.T.reshape(CHANNELS[0], 1, 3, 3), "b1": b1, "w2": w2.T.reshape(CHANNELS[1], CHANNELS[0], 3, 3), "b2": b2, "w3": w3, "b3": b3,
    }  # fmt: skip
    strides = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], "conv1", **strides),
        helper.make_node("Relu", ["c1"], ["h1"], "relu1"),
        helper.make_node("Conv", ["h1", "w2", "b2"], ["c2"], "conv2", **strides),
        helper.make_node("Relu", ["c2"], ["h2"], "relu2"),
        helper.make_node("Flatten", ["h2"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["scores"], "dense"),
        helper.make_node("Softmax", ["scores"], ["probabilities"], "softmax"),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, producer_name="make_digits.py")


def samples(rng: np.random.Generator) -> str:
    """A C header with a picture of each digit, in 255ths."""
    rows = np.rint(pictures(rng, np.arange(10)) * 255).astype(int).reshape(10, -1)
    text = ",\n".join("  {" + ",\n   ".join(", ".join(map(str, line)) for line in row.reshape(SIDE, SIDE)) + "}" for row in rows)
    size = SIDE * SIDE
    return f"/* Made by make_digits.py: a picture of each digit, none of which the network was trained on. */\n#include <stdint.h>\n\nstatic const uint8_t samples[10][{size}] = {{\n{text}}};\n"


def main(folder: Path) -> None:
    """Train and write."""
    weights = train(np.random.default_rng(1))
    onnx.save(model(weights), folder / "digits.onnx")
    (folder / "samples.h").write_text(samples(np.random.default_rng(2)))
    np.savez_compressed(folder / "calibration.npz", image=pictures(np.random.default_rng(3), np.arange(40) % 10))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
