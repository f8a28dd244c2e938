"""Layers over an axis whose size data decides: what lies behind the actual end must not show in the part that counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.errors import LeptonError, UnsupportedError, UsageError
from lepton_compiler.ir.text import parse_graph

LENGTH = 12

LAYERS: dict[str, str] = {
    "conv": """
      %w = const float32[2,3,3] (WEIGHTS18)
      %y = Conv(strides=(2,), pads=(2,2), dilations=(1,))(%v, %w) : float32[2,2,(n?0+1)//2+1]
      return %y""",
    "conv_integer": """
      %w = const int8[2,3,3] (1, -2, 3, -4, 5, 6, 7, -8, 9, 1, 2, 3, 4, 5, 6, -7, 8, 9)
      %q, %s, %z = DynamicQuantizeLinear()(%v) : uint8[2,3,n?0], float32[], uint8[]
      %y = ConvInteger(strides=(1,), pads=(1,1), dilations=(1,))(%q, %w, %z) : int32[2,2,n?0]
      %o = const uint8[] (7)
      %p = ConvInteger(strides=(1,), pads=(0,2), dilations=(1,))(%q, %w, %o) : int32[2,2,n?0]
      return %y, %p, %s""",
    "conv_transpose": """
      %w = const float32[3,2,3] (WEIGHTS18)
      %y = ConvTranspose(strides=(2,), pads=(1,1), dilations=(1,), output_padding=(1,))(%v, %w) : float32[2,2,2*n?0]
      return %y""",
    "pools": """
      %m = MaxPool(kernel_shape=(3,), strides=(2,), pads=(1,1), dilations=(1,))(%v) : float32[2,3,(n?0-1)//2+1]
      %a = AveragePool(kernel_shape=(3,), strides=(1,), pads=(1,1), dilations=(1,))(%v) : float32[2,3,n?0]
      %b = AveragePool(kernel_shape=(3,), strides=(1,), pads=(0,2), dilations=(1,), count_include_pad=True)(%v) : float32[2,3,n?0]
      return %m, %a, %b""",
    "resize": """
      %a = Resize(scales=(1.0,1.0,2.0), mode="linear")(%v) : float32[2,3,2*n?0]
      %b = Resize(scales=(1.0,1.0,3.0), coordinate_transformation_mode="asymmetric", nearest_mode="floor")(%v) : float32[2,3,3*n?0]
      %c = Resize(scales=(1.0,1.0,2.0), mode="cubic")(%v) : float32[2,3,2*n?0]
      return %a, %b, %c""",
    "pad": """
      %f = const float32[] (9.0)
      %a = Pad(pads=(0,0,2,0,0,3), mode="reflect")(%v) : float32[2,3,n?0+5]
      %b = Pad(pads=(0,1,2,0,0,3))(%v, %f) : float32[2,4,n?0+5]
      %c = Pad(pads=(0,0,1,0,0,1), mode="edge")(%v) : float32[2,3,n?0+2]
      %d = Pad(pads=(0,0,2,0,0,1), mode="wrap")(%v) : float32[2,3,n?0+3]
      return %a, %b, %c, %d""",
    "lstm": """
      %t = Transpose(perm=(2,0,1))(%v) : float32[n?0,2,3]
      %w = const float32[2,8,3] (WEIGHTS48)
      %r = const float32[2,8,2] (WEIGHTS32)
      %y, %h, %c = LSTM(hidden_size=2, direction="bidirectional")(%t, %w, %r) : float32[n?0,2,2,2], float32[2,2,2], float32[2,2,2]
      %u = Transpose(perm=(0,2,1,3))(%y) : float32[n?0,2,2,2]
      %s = Reshape(shape=(`n?0`,2,4))(%u) : float32[n?0,2,4]
      return %s, %h, %c""",
    "dynamic_quantize_lstm": """
      %m = Abs()(%v) : float32[2,3,n?0]
      %q = CumSum(axis=2)(%m) : float32[2,3,n?0]
      %t = Transpose(perm=(2,0,1))(%q) : float32[n?0,2,3]
      %w = const int8[2,8,3] (-50, -13, 24, -40, -3, 34, -30, 7, 44, -20, 17, -47, -10, 27, -37, 0, 37, -27, 10, 47, -17, 20, -44, -7, 30, -34, 3, 40, -24, 13, 50, -14, 23, -41, -4, 33, -31, 6, 43, -21, 16, -48, -11, 26, -38, -1, 36, -28)
      %r = const int8[2,8,2] (-50, 24, -3, -30, 44, 17, -10, -37, 37, 10, -17, -44, 30, 3, -24, 50, 23, -4, -31, 43, 16, -11, -38, 36, 9, -18, -45, 29, 2, -25, 49, 22)
      %ws = const float32[2] (0.02, 0.03)
      %rs = const float32[2] (0.01, 0.02)
      %y, %h, %c = DynamicQuantizeLSTM(hidden_size=2, direction="bidirectional")(%t, %w, %r, none, none, none, none, none, %ws, none, %rs, none) : float32[n?0,2,2,2], float32[2,2,2], float32[2,2,2]
      %u = Transpose(perm=(0,2,1,3))(%y) : float32[n?0,2,2,2]
      %s = Reshape(shape=(`n?0`,2,4))(%u) : float32[n?0,2,4]
      return %s, %h, %c""",
    "normalizations": """
      %g = const float32[3] (1.0, 2.0, 0.5)
      %o = const float32[1] (1.5)
      %a = LayerNormalization(axis=2)(%v, %o) : float32[2,3,n?0]
      %b = InstanceNormalization()(%v, %g, %g) : float32[2,3,n?0]
      %t = Transpose(perm=(0,2,1))(%v) : float32[2,n?0,3]
      %c = LayerNormalization()(%t, %g) : float32[2,n?0,3]
      %d = GroupNormalization(num_groups=3)(%v, %g, %g) : float32[2,3,n?0]
      return %a, %b, %c, %d""",
    "spectrum": """
      %i = const int64[] (0)
      %s = Gather(axis=1)(%v, %i) : float32[2,n?0]
      %w = const float32[4] (0.5, 1.0, 1.0, 0.5)
      %y = STFT(frame_step=2, frame_length=4)(%s, %w) : float32[2,n?0//2-1,3,2]
      return %y""",
    "attention": """
      %t = Transpose(perm=(0,2,1))(%v) : float32[2,n?0,3]
      %y = MatMul()(%t, %v) : float32[2,n?0,n?0]
      %s = Softmax(axis=2)(%y) : float32[2,n?0,n?0]
      %z = MatMul()(%s, %t) : float32[2,n?0,3]
      return %z""",
    "products_of_integers": """
      %q, %s, %z = DynamicQuantizeLinear()(%v) : uint8[2,3,n?0], float32[], uint8[]
      %t = Transpose(perm=(0,2,1))(%q) : uint8[2,n?0,3]
      %y = MatMulInteger()(%q, %t, %z, %z) : int32[2,3,3]
      return %y""",
    "cuts": """
      %b = Slice(starts=(0,), ends=(-3,), axes=(2,), steps=(1,))(%v) : float32[2,3,n?0-3]
      %c = Slice(starts=(-2,), ends=(9223372036854775807,), axes=(2,), steps=(1,))(%v) : float32[2,3,2]
      return %b, %c""",
    "scatter": """
      %t = Transpose(perm=(2,0,1))(%v) : float32[n?0,2,3]
      %i = const int64[2,1] (1, -1)
      %u = const float32[2,2,3] (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0)
      %y = ScatterND()(%t, %i, %u) : float32[n?0,2,3]
      return %y""",
}


def _weights(count: int) -> str:
    return ", ".join(f"{(7 * k % 11 - 5) / 8}" for k in range(count))


def _graph(body: str) -> lc.Graph:
    for count in (18, 32, 48):
        body = body.replace(f"WEIGHTS{count}", _weights(count))
    head = f"graph @g(%x: float32[2,3,{LENGTH}], %chosen: bool[{LENGTH}]) {{\n%v = Compress(axis=2)(%x, %chosen) : float32[2,3,n?0]\n"
    return parse_graph(head + body + "\n}")


def _feeds(rng: np.random.Generator, length: int) -> dict[str, np.ndarray]:
    chosen = np.zeros(LENGTH, bool)
    chosen[rng.permutation(LENGTH)[:length]] = True
    return {"x": rng.standard_normal((2, 3, LENGTH)).astype(np.float32), "chosen": chosen}


@pytest.mark.parametrize("name", LAYERS)
def test_the_part_that_counts_is_exact(name: str) -> None:
    graph = _graph(LAYERS[name])
    bounded, model = lc.optimize(graph, passes="bound-sizes"), lc.compile(graph, level=2)
    rng = np.random.default_rng(3)
    for length in (5, 6, 9, LENGTH):
        feeds = _feeds(rng, length)
        wanted = lc.evaluate(graph, feeds)
        for results in (lc.evaluate(bounded, feeds), model.run(feeds)):
            for key, array in wanted.items():
                assert results[key].shape == array.shape, key
                np.testing.assert_allclose(results[key], array, rtol=1e-5, atol=2e-6, err_msg=key)


COUNTING = """graph @g(%n: int64[], %x: float32[1,1]) {
  %r = Dynamic(template=Range(dtype=int64), params=("limit",))(%n) : int64[r?0]
  %f = Cast(to=float32)(%r) : float32[r?0]
  %u = Unsqueeze(axes=(0,))(%f) : float32[1,r?0]
  %y = Add()(%u, %x) : float32[1,r?0]
  return %y
}"""


@pytest.mark.parametrize("run", ["native", "evaluated"])
def test_a_stated_bound_holds_and_is_checked(run: str) -> None:
    graph = parse_graph(COUNTING)
    call: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
    if run == "native":
        call = lc.compile(graph, bounds={"r": 5}).run
    else:
        bounded = lc.optimize(graph, passes="bound-sizes", bounds={"r": 5})
        call = lambda feeds: lc.evaluate(bounded, feeds)  # noqa: E731
    for n in (0, 3, 5, -2):
        feeds: dict[str, np.ndarray] = {"n": np.array(n, np.int64), "x": np.ones((1, 1), np.float32)}
        np.testing.assert_array_equal(call(feeds)["y"], lc.evaluate(graph, feeds)["y"])
    with pytest.raises(LeptonError, match="larger than"):
        call({"n": np.array(6, np.int64), "x": np.ones((1, 1), np.float32)})


def test_a_size_without_bound_names_the_option() -> None:
    with pytest.raises(UnsupportedError, match="--bound r=N"):
        lc.compile(parse_graph(COUNTING))


def test_a_bound_of_another_node_is_refused() -> None:
    with pytest.raises(UsageError, match="no node 'y' gives a size that data decides") as caught:
        lc.compile(parse_graph(COUNTING), bounds={"y": 5, "r": 5})
    assert caught.value.diagnostics[0].hint == "nodes that do: r"


def test_the_range_of_values_bounds_a_size() -> None:
    text = COUNTING.replace("%r = ", "%a = const int64[] (1)\n%b = const int64[] (4)\n%k = Clip()(%n, %a, %b) : int64[]\n%r = ").replace(
        '("limit",))(%n)', '("limit",))(%k)'
    )
    model = lc.compile(parse_graph(text))
    assert model.manifest["outputs"][0]["shape"] == [1, 4]
    for n, size in ((-3, 1), (3, 3), (99, 4)):
        assert model.run({"n": np.array(n, np.int64), "x": np.ones((1, 1), np.float32)})["y"].shape == (1, size)


def test_a_bound_makes_a_buffer_smaller() -> None:
    graph = _graph("return %v")
    model = lc.compile(graph, bounds={"v": 4})
    assert model.manifest["outputs"][0]["shape"] == [2, 3, 4]
    feeds = _feeds(np.random.default_rng(0), 4)
    np.testing.assert_array_equal(model.run(feeds)["v"], lc.evaluate(graph, feeds)["v"])
    with pytest.raises(LeptonError, match="larger than"):
        model.run(_feeds(np.random.default_rng(0), 5))
