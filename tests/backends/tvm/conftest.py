"""A harness that holds native kernels against the evaluator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.backend import BuildOptions
from lepton_compiler.backends.tvm import build
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.types import TensorType, dtype
from lepton_compiler.ops.builder import Builder, make_op
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.runtime.library import NativeLibrary
from lepton_compiler.target import parse_target

Case = tuple[str, dict[str, Any], Sequence[np.ndarray | None]]
"""An operator's name, its attributes, its operands."""

CheckCases = Callable[..., None]


@pytest.fixture(scope="session")
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for compiled kernels that all tests share."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="session")
def check_cases(kernel_cache: Path) -> CheckCases:
    """`check_cases(cases, rtol, atol, threads)`: one library with a kernel per case gives what the evaluator gives."""

    def check(cases: Sequence[Case], rtol: float = 2e-6, atol: float = 1e-6, threads: int = 1) -> None:
        graph, labels = Graph("cases"), []
        feeds: dict[str, np.ndarray] = {}
        outputs: list[Value] = []
        for k, (name, fields, operands) in enumerate(cases):
            values = []
            for n, array in enumerate(operands):
                values.append(None if array is None else graph.add_input(f"x{k}_{n}", TensorType(dtype(array.dtype), array.shape)))
                feeds |= {} if array is None else {f"x{k}_{n}": array}
            node = Builder(graph).node(make_op(name, fields), values)
            outputs += node.outputs
            labels += [f"{name} {fields} {[None if a is None else (a.shape, a.dtype.name) for a in operands]}"] * len(node.outputs)
        graph.set_outputs(outputs)
        artifact = build(graph, BuildOptions("m", parse_target("native"), threads=threads, cache_dir=kernel_cache))
        got = NativeLibrary.from_bytes(artifact.files["libm.so"], {**artifact.manifest, "name": "m"}).run(feeds)
        with np.errstate(all="ignore"):
            expected = evaluate(graph, feeds)
        for (output, want), label in zip(expected.items(), labels, strict=True):
            assert got[output].shape == want.shape and got[output].dtype == want.dtype, label
            if want.dtype.kind in "biu":
                np.testing.assert_array_equal(got[output], want, err_msg=label)
            else:
                np.testing.assert_allclose(got[output], want, rtol=rtol, atol=atol, err_msg=label)

    return check


@pytest.fixture(scope="session")
def compile_and_compare() -> Callable[..., None]:
    """`compile_and_compare(build, *arrays, rtol)`: the graph whose outputs `build(builder, *inputs)` makes, as users compile it, is what it means."""

    def run(build: Callable[..., list[Value]], *arrays: np.ndarray, rtol: float = 1e-5) -> None:
        graph = Graph("compiled")
        inputs = [graph.add_input(f"x{k}", TensorType(dtype(a.dtype), a.shape)) for k, a in enumerate(arrays)]
        graph.set_outputs(build(Builder(graph), *inputs))
        feeds = {f"x{k}": a for k, a in enumerate(arrays)}
        with np.errstate(all="ignore"):
            expected = lc.evaluate(graph, feeds)
        got = lc.compile(graph, level=2).run(feeds)
        for value in graph.outputs:
            want, label = expected[value.name], f"{value.name} of {value.producer}"
            assert got[value.name].shape == want.shape and got[value.name].dtype == want.dtype, label
            if want.dtype.kind in "biu":
                np.testing.assert_array_equal(got[value.name], want, err_msg=label)
            else:
                half = want.dtype == np.float16
                np.testing.assert_allclose(got[value.name], want, rtol=2e-3 if half else rtol, atol=1e-6, err_msg=label)

    return run
