"""Matrix products."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ops.matmul import Det, Einsum, Gemm, MatMul, MatMulInteger, exact_matmul

RNG = np.random.default_rng(7)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("float32[n,3,4]", "float32[4,5]", "float32[n,3,5]"),
        ("float32[4]", "float32[n,4,5]", "float32[n,5]"),
        ("float32[n,4]", "float32[4]", "float32[n]"),
        ("float32[4]", "float32[4]", "float32[]"),
        ("float32[2,1,3,k]", "float32[5,k,2]", "float32[2,5,3,2]"),
    ],
)
def test_shapes_of_products(a: str, b: str, expected: str) -> None:
    assert MatMul().infer(tensor_type(a), tensor_type(b)) == (tensor_type(expected),)


def test_products_that_do_not_fit() -> None:
    with pytest.raises(InferenceError, match="inner size: 4 and 3"):
        MatMul().infer(tensor_type("float32[2,4]"), tensor_type("float32[3,5]"))
    with pytest.raises(InferenceError, match="takes no scalars"):
        MatMul().infer(tensor_type("float32[]"), tensor_type("float32[3]"))
    with pytest.raises(InferenceError, match="element types"):
        MatMul().infer(tensor_type("float32[2,2]"), tensor_type("float16[2,2]"))


def test_half_precision_accumulates_wide() -> None:
    a = np.full((1, 4096), 1, np.float16)
    assert MatMul().evaluate(a, a.T)[0].item() == 4096


def test_integer_products_are_exact() -> None:
    big = np.array([[2**31 - 1, 2**31 - 1]], np.int32)
    (y,) = MatMul().evaluate(big, big.T)
    assert y.dtype == np.int32 and y.item() == 2
    wide = RNG.integers(-(2**40), 2**40, (3, 4))
    np.testing.assert_array_equal(exact_matmul(wide, wide.T), wide @ wide.T)
    assert exact_matmul(np.zeros((2, 0), np.int32), np.zeros((0, 3), np.int32)).shape == (2, 3)


@pytest.mark.parametrize("trans_a", [False, True])
@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("bias", [None, (), (5,), (3, 1), (3, 5)])
def test_gemm(trans_a: bool, trans_b: bool, bias: tuple[int, ...] | None) -> None:
    a, b = RNG.standard_normal((3, 4)), RNG.standard_normal((4, 5))
    c = None if bias is None else RNG.standard_normal(bias)
    op = Gemm(alpha=0.5, beta=2.0, trans_a=trans_a, trans_b=trans_b)
    (y,) = op.evaluate(a.T if trans_a else a, b.T if trans_b else b, c)
    np.testing.assert_allclose(y, 0.5 * a @ b + (0 if c is None else 2 * c))


def test_gemm_shapes() -> None:
    a, b = tensor_type("float32[k,m]"), tensor_type("float32[5,k]")
    assert Gemm(trans_a=True, trans_b=True).infer(a, b) == (tensor_type("float32[m,5]"),)
    with pytest.raises(InferenceError, match="C of shape"):
        Gemm().infer(tensor_type("float32[2,3]"), tensor_type("float32[3,5]"), tensor_type("float32[2]"))
    with pytest.raises(InferenceError, match="takes matrices"):
        Gemm().infer(tensor_type("float32[2,3,1]"), tensor_type("float32[3,5]"))


def test_matmul_integer() -> None:
    a, b = RNG.integers(0, 256, (2, 3, 4), dtype=np.uint8), RNG.integers(-128, 128, (4, 5), dtype=np.int8)
    plain = a.astype(np.int64) @ b
    np.testing.assert_array_equal(MatMulInteger().evaluate(a, b)[0], plain)
    columns = np.array([1, -2, 3, -4, 5], np.int8)
    expected = (a.astype(np.int64) - 9) @ (b.astype(np.int64) - columns)
    (y,) = MatMulInteger().evaluate(a, b, np.array(9, np.uint8), columns)
    assert y.dtype == np.int32
    np.testing.assert_array_equal(y, expected)
    rows = np.array([1, 2, 3], np.uint8)
    np.testing.assert_array_equal(MatMulInteger().evaluate(a, b, rows)[0], (a.astype(np.int64) - rows[:, None]) @ b)
    assert MatMulInteger().infer(tensor_type("uint8[n,4]"), tensor_type("int8[4,5]")) == (tensor_type("int32[n,5]"),)


@pytest.mark.parametrize(
    ("equation", "shapes", "result"),
    [
        ("ij,jk->ik", ["float32[n,3]", "float32[3,4]"], "float32[n,4]"),
        ("b i j , b j k", ["float32[n,2,3]", "float32[n,3,4]"], None),
        ("...ij,jk->...ik", ["float32[n,5,2,3]", "float32[3,4]"], "float32[n,5,2,4]"),
        ("ij->", ["float32[2,3]"], "float32[]"),
        ("i,j", ["float32[2]", "float32[m]"], "float32[2,m]"),
        ("ba", ["float32[2,3]"], "float32[3,2]"),
        ("...", ["float32[2,3]"], "float32[2,3]"),
        ("bij,bj->bi", ["float32[1,2,3]", "float32[7,3]"], "float32[7,2]"),
    ],
)
def test_einsum_shapes(equation: str, shapes: list[str], result: str | None) -> None:
    types = [tensor_type(s) for s in shapes]
    found = Einsum(equation).infer(*types)
    if result is not None:
        assert found == (tensor_type(result),)
    arrays = [RNG.standard_normal([d if isinstance(d, int) else 6 for d in t.shape]).astype(np.float32) for t in types]
    (y,) = Einsum(equation).evaluate(*arrays)
    assert y.dtype == np.float32
    assert tuple(d if isinstance(d, int) else 6 for d in found[0].shape) == y.shape
    np.testing.assert_allclose(y, np.einsum(equation.replace(" ", ""), *arrays), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("equation", "shapes", "message"),
    [
        ("ij->k", ["float32[2,3]"], "'k' in its output alone"),
        ("ij->ii", ["float32[2,3]"], "'i' twice in its output"),
        ("i1", ["float32[2,3]"], "unexpected '1'"),
        ("ij", ["float32[2,3,4]"], "rank 3"),
        ("ij,jk", ["float32[2,3]"], "2 operands, the node 1"),
        ("ij,jk->ik", ["float32[2,3]", "float32[4,5]"], "label 'j' names axes of size 3 and 4"),
    ],
)
def test_einsum_errors(equation: str, shapes: list[str], message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        Einsum(equation).infer(*(tensor_type(s) for s in shapes))


def test_det() -> None:
    x = RNG.standard_normal((2, 3, 3)).astype(np.float32)
    np.testing.assert_allclose(Det().evaluate(x)[0], np.linalg.det(x.astype(np.float64)), rtol=1e-4)
    assert Det().evaluate(x[0])[0].shape == ()
    with pytest.raises(InferenceError, match="square"):
        Det().infer(tensor_type("float32[2,3]"))


def test_costs_count_multiply_accumulates() -> None:
    a, b = tensor_type("float32[2,3,4]"), tensor_type("float32[4,5]")
    op = MatMul()
    cost = op.cost([a, b], op.infer(a, b))
    assert cost.macs == 2 * 3 * 4 * 5 and cost.bytes == 4 * (24 + 20 + 30)
    m, n = tensor_type("float32[4,3]"), tensor_type("float32[4,5]")
    assert Gemm(trans_a=True).cost([m, n], Gemm(trans_a=True).infer(m, n)).macs == 3 * 4 * 5
    e = Einsum("bij,jk->bik")
    assert e.cost([a, b], e.infer(a, b)).macs == 2 * 3 * 4 * 5
