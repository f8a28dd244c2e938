"""States: outputs that are inputs of the next call, kept in the arena."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler import driver
from lepton_compiler.errors import UsageError
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.job import Job
from lepton_compiler.states import States
from lepton_compiler.target import parse_target

FILTER = """\
graph @filter(%x: float32[1,2], %old: float32[3,2]) {
  %w = const float32[4,1] (0.5, -1.0, 2.0, 0.25)
  %all = Concat(axis=0)(%old, %x) : float32[4,2]
  %weighted = Mul()(%all, %w) : float32[4,2]
  %y = ReduceSum(axes=(0,), keepdims=True)(%weighted) : float32[1,2]
  %new = Slice(axes=(0,), starts=(1,), ends=(4,), steps=(1,))(%all) : float32[3,2]
  return %y, %new
}
"""
SWAP = """\
graph @swap(%x: float32[4], %a: float32[4], %b: float32[4]) {
  %y = Add()(%x, %a) : float32[4]
  return %y, %b, %a
}
"""
WEIGHTS = np.array([[0.5], [-1], [2], [0.25]], np.float32)
START = np.arange(6, dtype=np.float32).reshape(3, 2)
needs_emulator = pytest.mark.skipif(importlib.util.find_spec("unicorn") is None, reason="unicorn is not installed")


def expected(steps):
    """What the filter gives for some inputs."""
    old = START
    for x in steps:
        everything = np.concatenate([old, x])
        yield (everything * WEIGHTS).sum(0, keepdims=True)
        old = everything[1:]


def steps(count):
    return np.random.default_rng(0).standard_normal((count, 1, 2)).astype(np.float32)


def test_a_model_goes_on_where_it_was_and_begins_anew():
    model = lc.compile(parse_graph(FILTER), states={"new": "old"}, initial={"old": START}, verify=True)
    assert [row["name"] for row in model.manifest["inputs"]] == ["x"]
    assert [row["name"] for row in model.manifest["outputs"]] == ["y"]
    for _ in range(2):
        model.reset()
        for x, want in zip(steps(9), expected(steps(9)), strict=True):
            np.testing.assert_allclose(model.run({"x": x})["y"], want, rtol=1e-5, atol=1e-6)


@needs_emulator
def test_firmware_in_the_emulator():
    model = lc.compile(parse_graph(FILTER), "cortex-m3", states={"new": "old"}, initial={"old": START}, verify=True)
    for _ in range(2):
        model.reset()
        for x, want in zip(steps(3), expected(steps(3)), strict=True):
            np.testing.assert_allclose(model.emulate({"x": x})[0]["y"], want, rtol=1e-5, atol=1e-6)


def test_states_that_are_each_other_s_inputs_are_swapped():
    a, b = np.arange(1, 5, dtype=np.float32), np.arange(5, 9, dtype=np.float32)
    zero = np.zeros(4, np.float32)
    model = lc.compile(parse_graph(SWAP), states={"b": "a", "a": "b"}, initial={"a": a, "b": b})
    for want in (a, b, a, b):
        np.testing.assert_array_equal(model.run({"x": zero})["y"], want)


def test_portable_c_is_verified_and_has_the_function_that_resets(tmp_path):
    job = Job(parse_target("native"), emit="c", verify=True, states=States({"new": "old"}, {"old": START}))
    outcome = driver.run_job(parse_graph(FILTER), tmp_path, job)
    assert outcome.failure is None
    header = (tmp_path / "filter.h").read_text()
    assert "int filter_reset(void *arena);" in header and "*old;" not in header


@pytest.mark.parametrize(
    ("states", "initial", "message"),
    [
        ({"new": "x"}, {}, "the output is float32\\[3,2\\], the input float32\\[1,2\\]"),
        ({"newer": "old"}, {}, "no output 'newer'"),
        ({"new": "older"}, {}, "no input 'older'"),
        ({"y": "x", "new": "old"}, {}, "every output is a state"),
        ({"y": "x"}, {"old": START}, "the input of no state"),
        ({"new": "old"}, {"old": START[:2]}, "the value float32\\[2, 2\\]"),
    ],
)
def test_states_that_cannot_be(states, initial, message):
    with pytest.raises(UsageError, match=message):
        lc.compile(parse_graph(FILTER), states=states, initial=initial)


def test_open_dimensions_and_exchange_formats_keep_no_states(tmp_path):
    text = FILTER.replace("[1,2]", "[1,n]").replace("[3,2]", "[3,n]").replace("[4,2]", "[4,n]")
    with pytest.raises(UsageError, match="one size of every dimension"):
        lc.compile(parse_graph(text), states={"new": "old"})
    with pytest.raises(UsageError, match="keeps no states"):
        job = Job(parse_target("native"), emit="ir", states=States({"new": "old"}))
        driver.run_job(parse_graph(FILTER), tmp_path / "m.lir", job)
