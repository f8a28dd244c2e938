"""Factors between the channels of data and weights: results stay, codes get better, and doubtful ranges are left alone."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.calibration import Statistics
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.passes.quantize.profile import PROFILES
from lepton_compiler.quantization import Request, parse_recipe, quantize
from lepton_compiler.quantization.balance import balance, readable, trials, watched
from lepton_compiler.quantization.factors import Channels, CutOff, Weights, common_range, expected_error, make_factors, promising

CHANNELS = np.logspace(0, -1.5, 8).astype(np.float32)
"""How wide the channels of data are."""


def depthwise(middle="Relu"):
    """A convolution whose channels are unlike, something after it, and a depthwise convolution that makes them alike."""
    rng = np.random.default_rng(0)
    graph = Graph("depthwise")
    x = graph.add_input("x", tensor_type("float32[1,4,10,10]"))
    b = Builder(graph)
    first = (rng.normal(size=(8, 4, 1, 1)) / 2).astype(np.float32) * CHANNELS.reshape(-1, 1, 1, 1)
    y = b.Conv(x, b.constant(first), b.constant(CHANNELS / 4))
    match middle:
        case "Relu":
            y = b.Relu(y)
        case "affine":
            y = b.Add(b.Mul(b.HardSwish(y), b.constant(np.float32(0.5))), b.constant(np.array([0.01], np.float32)))
        case "Tanh":
            y = b.Tanh(y)
    second = rng.normal(size=(8, 1, 3, 3)).astype(np.float32) / CHANNELS.reshape(-1, 1, 1, 1)
    y = b.Conv(y, b.constant(second), b.constant(np.zeros(8, np.float32)), groups=8)
    graph.set_outputs([b.Conv(b.Relu(y), b.constant((rng.normal(size=(6, 8, 1, 1)) / 3).astype(np.float32)))])
    return graph


def samples(count=16, shape=(1, 4, 10, 10)):
    rng = np.random.default_rng(5)
    return [{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(count)]


def sqnr(graph, other, feeds):
    pairs = [(next(iter(lc.evaluate(graph, f).values())), next(iter(lc.evaluate(other, f).values()))) for f in feeds]
    a, b = (np.concatenate([p[k].ravel() for p in pairs]).astype(np.float64) for k in (0, 1))
    return 10 * np.log10((a @ a) / max(float(np.square(a - b).sum()), 1e-30))


@pytest.mark.parametrize(("middle", "profile", "more"), [("Relu", "onnx", 0), ("affine", "x86", 0), ("Tanh", "x86", 1)])
def test_channels_of_depthwise_convolutions_get_ranges_of_their_own(middle, profile, more):
    graph, feeds = depthwise(middle), samples()
    recipe = f"int8{{profile={profile},observer=minmax,correct-bias=off,rounding=nearest,balance=%s}}"
    plain, done = (quantize(graph, Request(parse_recipe(recipe % how), feeds)) for how in ("false", "true"))
    assert sqnr(graph, done.graph, samples(4)) > sqnr(graph, plain.graph, samples(4)) + 4
    counts = [sum(n.op.name == "Mul" and not n.present_inputs[0].is_constant for n in g) for g in (plain.graph, done.graph)]
    assert counts[1] - counts[0] == more
    reasons = {row.name: row.reason for row in done.report.layers}
    assert sum("channels" in reason for reason in reasons.values()) >= 1


def test_where_a_division_would_cost_something_it_is_left():
    value = next(n for n in depthwise("Tanh") if n.op.name == "Tanh").output
    assert value in readable(value.graph, PROFILES["x86"]) and value not in readable(value.graph, PROFILES["onnx"])
    last = [n for n in value.graph if n.op.name == "Conv"][1].output.name
    assert value not in readable(value.graph, PROFILES["x86"], keep=[last])


def test_factors_leave_the_results_of_the_float_model():
    for middle in ("Relu", "affine", "Tanh"):
        graph = depthwise(middle)
        other = graph.copy()
        reads = readable(other, PROFILES["x86"])
        found = []
        for part in (samples(8), samples(16)[8:]):
            statistics = {value.name: Statistics() for value in reads}
            for feeds in part:
                seen = _all_values(other, feeds)
                for value, read in reads.items():
                    statistics[value.name].add_channels(seen[value.name], read.axis)
            found.append(statistics)
        tried = trials(reads, found[0])
        run = watched(partial(_all_values, other), tried)
        for feeds in samples(16)[8:]:
            run(feeds)
        assert balance(reads, found, tried)
        assert sqnr(graph, other, samples(4)) > 110


def _all_values(graph, feeds):
    seen = dict(feeds)
    evaluate(graph, feeds, lambda node, results: seen.update({v.name: r for v, r in zip(node.outputs, results, strict=True)}))
    return seen


def test_features_of_an_input_are_scaled_before_they_are_rounded():
    """A product that reads a transposed input of unlike features: no codes before the multiplication."""
    rng, widths = np.random.default_rng(0), np.logspace(0, -1.2, 12).astype(np.float32)
    graph = Graph("features")
    x = graph.add_input("x", tensor_type("float32[2,12,6]"))
    b = Builder(graph)
    weights = rng.normal(size=(12, 16)).astype(np.float32) / widths[:, None]
    graph.set_outputs([b.MatMul(b.Transpose(x, perm=(0, 2, 1)), b.constant(weights))])
    feeds = [{"x": rng.uniform(-1, 1, size=(2, 12, 6)).astype(np.float32) * widths[:, None]} for _ in range(24)]
    recipe = "int8{observer=minmax,correct-bias=off,balance=%s}"
    plain, done = (quantize(graph, Request(parse_recipe(recipe % how), feeds)).graph for how in ("false", "true"))
    assert sqnr(graph, done, feeds[:4]) > sqnr(graph, plain, feeds[:4]) + 3
    assert sum(node.op.name == "QuantizeLinear" for node in done) == 1
    (found,), (wanted,) = lc.compile(done).run(feeds[0]).values(), lc.evaluate(done, feeds[0]).values()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def statistics_of(array):
    found = Statistics()
    found.add_channels(array, 1)
    return found


def test_ranges_that_other_samples_go_beyond_are_not_trusted():
    """Channels that are still on one half of the samples and lively on the other."""
    rng = np.random.default_rng(0)
    graph = depthwise("Relu")
    reads = readable(graph, PROFILES["x86"])
    (value,) = [v for v, r in reads.items() if getattr(r.layers[0].op, "groups", 1) == 8]
    quiet, lively = (rng.uniform(0, 1, (50, 8)).astype(np.float32) * scale for scale in (CHANNELS, np.ones(8, np.float32)))
    halves = [{value.name: statistics_of(a)} for a in (quiet, lively)]
    tried = trials({value: reads[value]}, halves[0])
    assert tried[value].best() is not None, "nothing has been cut off yet"
    tried[value].cut.add(lively[:, :, None])
    assert tried[value].best() is None and balance(reads, halves, tried) == set()


def test_what_is_cut_off_is_measured():
    seen = Channels(np.array([-1.0, 0.0]), np.array([1.0, 0.5]), np.ones(2))
    cut = CutOff([np.ones(2), np.array([1.0, 0.5])], seen, axis=1)
    cut.add(np.array([[2.0, 0.8], [0.0, 0.5]]))
    np.testing.assert_allclose(cut.squares, [[0.5, 0.0], [0.5, 0.3**2 / 2]])


def test_a_common_range_suits_the_channels_that_weigh_most():
    low, high = np.array([0.0, -0.5, 0.0]), np.array([4.0, 0.5, 1.0])
    factor = common_range(low, high, np.ones(3))
    assert factor.max() == 1 and factor[0] == 1 and factor[2] < 0.3
    assert np.array_equal(common_range(np.zeros(2), np.zeros(2), np.ones(2)), np.ones(2))


def test_channels_without_data_do_not_count():
    """Huge weights that meet nothing but zeros: rounding cannot do any harm there, since zero is a code."""
    node = [n for n in depthwise() if n.op.name == "Conv"][1]
    weights = Weights.of(node)
    assert weights.largest.shape == (8, 8) and np.count_nonzero(weights.largest) == 8 and weights.part == 1
    weights.power[7] = 1e9
    seen = Channels(np.zeros(8), np.append(CHANNELS[:7], 1.0).astype(np.float64), np.append(np.square(CHANNELS[:7]) / 3, 0.0))
    powers = promising(seen, [weights])
    assert powers[0] == (0.0, 0.0) and len(powers) > 1
    errors = [expected_error(make_factors(seen, [weights], p), seen, [weights]) for p in powers]
    assert errors[1] < 0.5 * errors[0]
