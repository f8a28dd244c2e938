"""Attention and rotary embedding."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.types import DTYPES, tensor_type
from lepton_compiler.ops.attention import QK_MASKED, QK_SOFTMAX, Attention, RotaryEmbedding

RNG = np.random.default_rng(11)


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def plain(q: np.ndarray, k: np.ndarray, v: np.ndarray, bias: np.ndarray | float = 0.0) -> np.ndarray:
    scores = q.astype(np.float64) @ k.swapaxes(2, 3) / np.sqrt(q.shape[3]) + bias
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    y: np.ndarray = weights / weights.sum(axis=-1, keepdims=True) @ v
    return y


def test_attention_by_its_formula() -> None:
    q, k, v = draw(2, 3, 4, 8), draw(2, 3, 5, 8), draw(2, 3, 5, 6)
    np.testing.assert_allclose(Attention().evaluate(q, k, v)[0], plain(q, k, v), rtol=1e-4, atol=1e-6)
    mask = draw(4, 5)
    np.testing.assert_allclose(Attention().evaluate(q, k, v, mask)[0], plain(q, k, v, mask), rtol=1e-4, atol=1e-6)
    seen = np.tril(np.ones((4, 5), bool))
    expected = plain(q, k, v, np.where(seen, 0, -np.inf))
    np.testing.assert_allclose(Attention(is_causal=True).evaluate(q, k, v)[0], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(Attention().evaluate(q, k, v, seen)[0], expected, rtol=1e-4, atol=1e-6)


def test_shared_key_heads_and_folded_operands() -> None:
    q, k, v = draw(2, 4, 3, 8), draw(2, 2, 5, 8), draw(2, 2, 5, 6)
    expected = plain(q, np.repeat(k, 2, axis=1), np.repeat(v, 2, axis=1))
    np.testing.assert_allclose(Attention().evaluate(q, k, v)[0], expected, rtol=1e-4, atol=1e-6)
    folded = [x.swapaxes(1, 2).reshape(2, x.shape[2], -1) for x in (q, k, v)]
    (y,) = Attention(q_num_heads=4, kv_num_heads=2).evaluate(*folded)
    np.testing.assert_allclose(y, expected.swapaxes(1, 2).reshape(2, 3, -1), rtol=1e-4, atol=1e-6)


def test_cache_outputs_and_causality_behind_a_cache() -> None:
    q, k, v, past_k, past_v = draw(1, 2, 2, 4), draw(1, 2, 2, 4), draw(1, 2, 2, 4), draw(1, 2, 3, 4), draw(1, 2, 3, 4)
    op = Attention(is_causal=True, outputs=4, qk_matmul_output_mode=QK_SOFTMAX)
    y, present_k, present_v, weights = op.evaluate(q, k, v, None, past_k, past_v)
    np.testing.assert_array_equal(present_k, np.concatenate([past_k, k], axis=2))
    np.testing.assert_array_equal(present_v, np.concatenate([past_v, v], axis=2))
    assert np.all(weights[:, :, 0, 4] == 0) and np.all(weights[:, :, 1] > 0)
    np.testing.assert_allclose(y, weights @ present_v, rtol=1e-5, atol=1e-6)
    block, cache = tensor_type("float32[1,2,2,4]"), tensor_type("float32[1,2,p,4]")
    types = op.infer(block, block, block, None, cache, cache)
    assert [repr(t) for t in types] == ["float32[1,2,2,4]", "float32[1,2,p+2,4]", "float32[1,2,p+2,4]", "float32[1,2,2,p+2]"]


def test_query_without_keys_gives_zeros() -> None:
    q, k, v = draw(1, 1, 2, 4), draw(1, 1, 3, 4), draw(1, 1, 3, 4)
    (y,) = Attention().evaluate(q, k, v, np.array([[False] * 3, [True] * 3]))
    assert np.all(y[0, 0, 0] == 0) and np.all(np.isfinite(y))


def test_windows_padding_and_short_masks() -> None:
    q, k, v = draw(2, 1, 4, 4), draw(2, 1, 4, 4), draw(2, 1, 4, 4)
    op = Attention(left_window_size=1, right_window_size=0, outputs=4, qk_matmul_output_mode=QK_MASKED)
    hidden = np.isneginf(op.evaluate(q, k, v)[3][0, 0])
    np.testing.assert_array_equal(hidden, [[0, 1, 1, 1], [0, 0, 1, 1], [1, 0, 0, 1], [1, 1, 0, 0]])
    op = Attention(outputs=4, qk_matmul_output_mode=QK_MASKED)
    hidden = np.isneginf(op.evaluate(q, k, v, None, None, None, np.array([4, 2]))[3][:, 0, 0])
    np.testing.assert_array_equal(hidden, [[0, 0, 0, 0], [0, 0, 1, 1]])
    hidden = np.isneginf(op.evaluate(q, k, v, np.ones((4, 3), bool))[3][0, 0])
    assert hidden[:, 3].all() and not hidden[:, :3].any()


def test_softcap_scale_and_precision() -> None:
    q, k, v = draw(1, 1, 2, 4), draw(1, 1, 3, 4), draw(1, 1, 3, 4)
    op = Attention(scale=0.3, softcap=0.5, outputs=4, qk_matmul_output_mode=1)
    np.testing.assert_allclose(op.evaluate(q, k, v)[3], 0.5 * np.tanh(0.3 * q @ k.swapaxes(2, 3) / 0.5), rtol=1e-4, atol=1e-6)
    (coarse,) = Attention(softmax_precision=DTYPES["float16"]).evaluate(q, k, v)
    assert coarse.dtype == np.float32
    np.testing.assert_allclose(coarse, plain(q, k, v), atol=5e-3)


def test_attention_errors() -> None:
    q, k = tensor_type("float32[1,3,2,4]"), tensor_type("float32[1,2,5,4]")
    with pytest.raises(InferenceError, match="share 2 key heads among 3"):
        Attention().infer(q, k, k)
    with pytest.raises(InferenceError, match="needs q_num_heads"):
        Attention().infer(*(tensor_type("float32[1,2,8]"),) * 3)
    with pytest.raises(InferenceError, match="together"):
        Attention().infer(q, q, q, None, q)
    with pytest.raises(InferenceError, match="4 wide in q and 6 in k"):
        Attention().infer(q, tensor_type("float32[1,3,5,6]"), q)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("partial", [0, 4])
def test_rotation_is_a_complex_product(interleaved: bool, partial: int) -> None:
    x = draw(2, 3, 5, 8)
    width = partial or 8
    angle = RNG.uniform(0, 6, (7, width // 2)).astype(np.float32)
    places = RNG.integers(0, 7, (2, 5))
    op = RotaryEmbedding(interleaved=interleaved, rotary_embedding_dim=partial)
    (y,) = op.evaluate(x, np.cos(angle), np.sin(angle), places)
    halves = (slice(0, width, 2), slice(1, width, 2)) if interleaved else (slice(0, width // 2), slice(width // 2, width))
    turned = (x[..., halves[0]] + 1j * x[..., halves[1]]) * np.exp(1j * angle[places])[:, None]
    np.testing.assert_allclose(y[..., halves[0]], turned.real, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(y[..., halves[1]], turned.imag, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(y[..., width:], x[..., width:])
    folded = RotaryEmbedding(interleaved=interleaved, rotary_embedding_dim=partial, num_heads=3)
    (z,) = folded.evaluate(x.swapaxes(1, 2).reshape(2, 5, 24), np.cos(angle)[places], np.sin(angle)[places])
    np.testing.assert_allclose(z.reshape(2, 5, 3, 8).swapaxes(1, 2), y, rtol=1e-5, atol=1e-6)


def test_rotary_errors() -> None:
    cache = tensor_type("float32[9,4]")
    with pytest.raises(InferenceError, match="needs num_heads"):
        RotaryEmbedding().infer(tensor_type("float32[1,5,24]"), cache, cache)
    with pytest.raises(InferenceError, match="cos cache"):
        RotaryEmbedding().infer(tensor_type("float32[1,3,5,6]"), cache, cache, tensor_type("int64[1,5]"))
