"""Scaled dot-product attention and rotary position embedding. Narrow floats are computed in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_compiler.ir.dim import Dim, floordiv
from lepton_compiler.ir.op import Cost, Op, Types, require, traffic
from lepton_compiler.ir.types import DType, TensorType
from lepton_compiler.ops.broadcasting import may_equal, require_broadcastable
from lepton_compiler.ops.precision import widen

QK_RAW, QK_CAPPED, QK_MASKED, QK_SOFTMAX = range(4)
"""Values of `Attention.qk_matmul_output_mode`: which intermediate the fourth output is."""


@dataclass(frozen=True)
class Heads:
    """The sizes of an attention: [batch, heads, length, size per head] of queries, keys and values."""

    batch: Dim
    q_heads: Dim
    kv_heads: Dim
    q_length: Dim
    kv_length: Dim
    past_length: Dim
    head_size: Dim
    v_size: Dim

    @property
    def total_length(self) -> Dim:
        """Keys and values in all, cached ones included."""
        return self.past_length + self.kv_length


@dataclass(frozen=True)
class Attention(Op):
    """softmax(Q K^T * scale + mask) V for every head, as ONNX defines it.

    q, k and v are [batch, heads, length, size], or [batch, length, heads * size] with the numbers of heads as attributes.
    Several query heads may share a key/value head. `past_key` and `past_value` [batch, heads, past, size] go before k and v.

    Attributes:
        scale: of the logits; 1 / sqrt(head size) if None.
        is_causal: query i sees keys up to i plus the number of keys before the block of queries.
        softcap: the logits become softcap * tanh(logits / softcap) if positive.
        qk_matmul_output_mode: the fourth output is the logits (0), those after the cap (1), with mask (2), or the softmax (3).
        softmax_precision: type that the logits are rounded to before the softmax, and its result.
        outputs: how many of y, present_key, present_value, qk there are.
        left_window_size, right_window_size: how many keys before and after its own place a query sees; -1 is all.

    A query that may see no key gives zeros.
    """

    scale: float | None = None
    is_causal: bool = False
    softcap: float = 0.0
    q_num_heads: int = 0
    kv_num_heads: int = 0
    qk_matmul_output_mode: int = 0
    softmax_precision: DType | None = None
    outputs: int = 1
    left_window_size: int = -1
    right_window_size: int = -1

    def infer(  # noqa: D102
        self,
        q: TensorType,
        k: TensorType,
        v: TensorType,
        attn_mask: TensorType | None = None,
        past_key: TensorType | None = None,
        past_value: TensorType | None = None,
        nonpad_kv_seqlen: TensorType | None = None,
    ) -> tuple[TensorType, ...]:
        require(q.dtype.is_float and k.dtype == q.dtype, f"Attention takes floats of one type, not {q.dtype} and {k.dtype}")
        require(1 <= self.outputs <= 4, f"Attention has 1 to 4 outputs, not {self.outputs}")
        require(self.qk_matmul_output_mode in range(4), f"Attention has no qk_matmul_output_mode {self.qk_matmul_output_mode}")
        require((past_key is None) == (past_value is None), "Attention takes past_key and past_value together or not at all")
        require(nonpad_kv_seqlen is None or past_key is None, "Attention takes nonpad_kv_seqlen or past keys, not both")
        sizes = self.sizes(q, k, v, past_key)
        scores = (sizes.batch, sizes.q_heads, sizes.q_length, sizes.total_length)
        if attn_mask is not None:
            require(attn_mask.rank >= 1, "Attention's mask is a scalar")
            require_broadcastable((*attn_mask.shape[:-1], 1), scores, "Attention's mask")
        shape: tuple[Dim, ...] = (sizes.batch, sizes.q_heads, sizes.q_length, sizes.v_size)
        if q.rank == 3:
            shape = (sizes.batch, sizes.q_length, sizes.q_heads * sizes.v_size)
        cache = (sizes.batch, sizes.kv_heads, sizes.total_length)
        every = (
            TensorType(q.dtype, shape),
            TensorType(k.dtype, (*cache, sizes.head_size)),
            TensorType(v.dtype, (*cache, sizes.v_size)),
            TensorType(q.dtype, scores),
        )
        return every[: self.outputs]

    def sizes(self, q: TensorType, k: TensorType, v: TensorType, past_key: TensorType | None = None) -> Heads:
        """The sizes that operands of these types stand for.

        Raises:
            InferenceError: they do not fit each other.
        """
        require(q.rank in (3, 4) and q.rank == k.rank == v.rank, f"Attention takes three tensors of rank 3 or 4, not {q}, {k} and {v}")
        past: Dim = 0
        if past_key is not None:
            require(past_key.rank == 4, f"Attention's past_key is {past_key}, not of rank 4")
            past = past_key.shape[2]
        if q.rank == 4:
            found = Heads(q.shape[0], q.shape[1], k.shape[1], q.shape[2], k.shape[2], past, q.shape[3], v.shape[3])
            size = k.shape[3]
        else:
            heads, shared = self.q_num_heads, self.kv_num_heads
            require(heads > 0 and shared > 0, "Attention on tensors of rank 3 needs q_num_heads and kv_num_heads")
            for what, t, n in (("q", q, heads), ("k", k, shared), ("v", v, shared)):
                width = t.shape[2]
                require(not isinstance(width, int) or width % n == 0, f"Attention cannot split {what} of {t} into {n} heads")
            found = Heads(
                q.shape[0], heads, shared, q.shape[1], k.shape[1], past, floordiv(q.shape[2], heads), floordiv(v.shape[2], shared)
            )
            size = floordiv(k.shape[2], shared)
        require(may_equal(size, found.head_size), f"Attention's heads are {found.head_size} wide in q and {size} in k")
        q_heads, kv_heads = found.q_heads, found.kv_heads
        fits = not (isinstance(q_heads, int) and isinstance(kv_heads, int)) or (kv_heads > 0 and q_heads % kv_heads == 0)
        require(fits, f"Attention cannot share {kv_heads} key heads among {q_heads} query heads")
        return found

    def evaluate(  # noqa: D102
        self, q: Any, k: Any, v: Any, attn_mask: Any = None, past_key: Any = None, past_value: Any = None, nonpad_kv_seqlen: Any = None
    ) -> tuple[np.ndarray, ...]:
        element, folded = q.dtype, q.ndim == 3
        if folded:
            q, k, v = _split_heads(q, self.q_num_heads), _split_heads(k, self.kv_num_heads), _split_heads(v, self.kv_num_heads)
        past = 0
        if past_key is not None:
            past = past_key.shape[2]
            k, v = np.concatenate([past_key, k], axis=2), np.concatenate([past_value, v], axis=2)
        query, key, value = widen(q), widen(k), widen(v)
        bias = self._bias(query, key.shape[2], attn_mask, past, nonpad_kv_seqlen)
        batch, heads, length, size = query.shape
        shared = heads // key.shape[1]
        scale = size**-0.5 if self.scale is None else self.scale
        grouped = (query * scale).reshape(batch, key.shape[1], shared * length, size)
        scores = np.matmul(grouped, np.swapaxes(key, 2, 3)).reshape(batch, heads, length, key.shape[2])
        capped = self.softcap * np.tanh(scores / self.softcap) if self.softcap > 0 else scores
        masked = capped + bias
        weights = np.where(np.all(np.isneginf(bias), axis=-1, keepdims=True), 0, self._softmax(masked))
        y = np.matmul(weights.reshape(batch, key.shape[1], shared * length, key.shape[2]), value).reshape(
            batch, heads, length, value.shape[3]
        )
        if folded:
            y = np.swapaxes(y, 1, 2).reshape(batch, length, heads * value.shape[3])
        exposed = (scores, capped, masked, weights)[self.qk_matmul_output_mode]
        return (y.astype(element), k, v, np.broadcast_to(exposed, scores.shape).astype(element))[: self.outputs]

    def _bias(self, query: Any, total: int, attn_mask: Any, past: int, nonpad: Any) -> np.ndarray:
        """What is added to the logits: 0 or the mask where a key is visible, -inf where it is not."""
        batch, _, length, _ = query.shape
        bias = np.zeros((1, 1, length, total), query.dtype)
        if attn_mask is not None:
            mask = np.where(attn_mask, 0, -np.inf) if attn_mask.dtype == np.bool_ else widen(attn_mask)
            margins = [(0, 0)] * (mask.ndim - 1) + [(0, total - mask.shape[-1])]
            bias = bias + (np.pad(mask, margins, constant_values=-np.inf) if margins[-1][1] > 0 else mask).astype(query.dtype)
        offset = np.full((1, 1, 1, 1), past) if nonpad is None else nonpad.reshape(batch, 1, 1, 1) - length
        row, column = np.arange(length)[:, None] + offset, np.arange(total)
        visible = np.ones((1, 1, 1, 1), bool)
        if self.is_causal:
            visible = visible & (column <= row)
        if self.left_window_size >= 0:
            visible = visible & (column >= row - self.left_window_size)
        if self.right_window_size >= 0:
            visible = visible & (column <= row + self.right_window_size)
        if nonpad is not None:
            visible = visible & (column < nonpad.reshape(batch, 1, 1, 1))
        return np.where(visible, bias, np.asarray(-np.inf, query.dtype))

    def _softmax(self, scores: Any) -> Any:
        if self.softmax_precision is not None:
            scores = widen(scores.astype(self.softmax_precision.numpy))
        with np.errstate(invalid="ignore"):
            powers = np.exp(scores - np.max(scores, axis=-1, keepdims=True, initial=-np.inf))
            weights = powers / np.sum(powers, axis=-1, keepdims=True)
        return weights if self.softmax_precision is None else weights.astype(self.softmax_precision.numpy).astype(scores.dtype)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        q, k, v, past = (inputs[i] if i < len(inputs) else None for i in (0, 1, 2, 4))
        assert q is not None and k is not None and v is not None
        sizes = self.sizes(q, k, v, past)
        scores = sizes.batch * sizes.q_heads * sizes.q_length * sizes.total_length
        macs = scores * (sizes.head_size + sizes.v_size)
        return Cost(int(macs), 5 * int(scores), traffic(inputs, outputs))  # type: ignore[arg-type]


@dataclass(frozen=True)
class RotaryEmbedding(Op):
    """Rotate pairs of features by angles that depend on the position (RoFormer), as ONNX defines it.

    x is [batch, heads, length, size], or [batch, length, heads * size] with `num_heads`. The caches are [positions, size / 2] with
    `position_ids` [batch, length], else [batch, length, size / 2].

    Attributes:
        interleaved: pairs are neighbours, rather than an element of the first half and one of the second.
        num_heads: of a tensor of rank 3.
        rotary_embedding_dim: leading features that are rotated; 0 is all.
    """

    interleaved: bool = False
    num_heads: int = 0
    rotary_embedding_dim: int = 0

    def infer(  # noqa: D102
        self, x: TensorType, cos_cache: TensorType, sin_cache: TensorType, position_ids: TensorType | None = None
    ) -> tuple[TensorType, ...]:
        require(x.dtype.is_float, f"RotaryEmbedding takes floats, not {x.dtype}")
        require(x.rank in (3, 4), f"RotaryEmbedding takes a tensor of rank 3 or 4, not {x}")
        require(x.rank == 4 or self.num_heads > 0, "RotaryEmbedding on a tensor of rank 3 needs num_heads")
        rank = 3 if position_ids is None else 2
        half = floordiv(self.rotated(x), 2)
        for what, cache in (("cos", cos_cache), ("sin", sin_cache)):
            require(
                cache.rank == rank and may_equal(cache.shape[-1], half),
                f"RotaryEmbedding's {what} cache is {cache}, not of rank {rank} and {half} wide",
            )
        return (x,)

    def rotated(self, x: TensorType) -> Dim:
        """How many features of each head are rotated."""
        return self.rotary_embedding_dim or (x.shape[3] if x.rank == 4 else floordiv(x.shape[2], self.num_heads))

    def evaluate(self, x: Any, cos_cache: Any, sin_cache: Any, position_ids: Any = None) -> tuple[np.ndarray, ...]:  # noqa: D102
        heads = np.swapaxes(x, 1, 2) if x.ndim == 4 else x.reshape(*x.shape[:2], self.num_heads, -1)
        width = self.rotary_embedding_dim or heads.shape[3]
        cos, sin = (widen(c if position_ids is None else c[position_ids])[:, :, None, :] for c in (cos_cache, sin_cache))
        turned, rest = widen(heads[..., :width]), heads[..., width:]
        first, second = (
            (turned[..., 0::2], turned[..., 1::2]) if self.interleaved else (turned[..., : width // 2], turned[..., width // 2 :])
        )
        pair = cos * first - sin * second, sin * first + cos * second
        mixed = np.stack(pair, axis=-1).reshape(turned.shape) if self.interleaved else np.concatenate(pair, axis=-1)
        result = np.concatenate([mixed.astype(x.dtype), rest], axis=-1)
        return (np.swapaxes(result, 1, 2) if x.ndim == 4 else result.reshape(x.shape),)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        x = inputs[0]
        assert x is not None
        return Cost(2 * x.size, 0, traffic(inputs, outputs))


def _split_heads(x: Any, heads: int) -> Any:
    """[batch, length, heads * size] to [batch, heads, length, size]."""
    return np.swapaxes(x.reshape(*x.shape[:2], heads, -1), 1, 2)
