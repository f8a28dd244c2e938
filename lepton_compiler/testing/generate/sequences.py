"""Layers over sequences: recurrent ones, attention, transforms of signals."""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_compiler.ir.graph import Value
from lepton_compiler.ir.types import DTYPES, TensorType
from lepton_compiler.ops.builder import make_op
from lepton_compiler.ops.recurrent import ACTIVATION_PARAMETERS
from lepton_compiler.testing.generate.maker import BOOL, FLOAT32, Maker, step

ACTIVATIONS = tuple(ACTIVATION_PARAMETERS)


@step(3)
def recurrent(m: Maker) -> None:
    """RNN, GRU and LSTM with all operands and attributes."""
    name = m.pick(("RNN", "GRU", "LSTM"))
    gates, per_direction, states = {"RNN": (1, 1, 1), "GRU": (3, 2, 1), "LSTM": (4, 3, 2)}[name]
    direction = m.pick(("forward", "reverse", "bidirectional"))
    n, hidden, features, batch, time = 1 + (direction == "bidirectional"), m.number(1, 4), m.number(1, 4), m.number(1, 3), m.number(1, 4)
    layout, element = m.number(0, 1), m.pick((FLOAT32, FLOAT32, FLOAT32, m.float_type()))

    def operand(*shape: int) -> Value:
        return m.tame(TensorType(element, shape))

    x = m.like(TensorType(element, (batch, time, features) if layout else (time, batch, features)))
    state = (batch, n, hidden) if layout else (n, batch, hidden)
    lengths = m.weight(np.array([m.number(0, time) for _ in range(batch)], np.int32)) if m.flag(0.4) else None
    operands = [x, operand(n, gates * hidden, features), operand(n, gates * hidden, hidden)]
    rest: list[Value | None] = [operand(n, 2 * gates * hidden) if m.flag() else None, lengths]
    rest += [m.like(TensorType(element, state)) if m.flag(0.4) else None for _ in range(states)]
    attributes: dict[str, Any] = {"hidden_size": hidden, "direction": direction, "layout": layout}
    if m.flag(0.4):
        attributes["activations"] = tuple(m.pick(ACTIVATIONS) for _ in range(per_direction * n))
    if m.flag(0.3):
        attributes["clip"] = 0.75
    if name == "LSTM":
        rest.append(operand(n, 3 * hidden) if m.flag(0.4) else None)
        attributes["input_forget"] = m.flag(0.2)
    if name == "GRU":
        attributes["linear_before_reset"] = m.flag()
    m.b.node(make_op(name, attributes), [*operands, *rest])


@step(3)
def attention(m: Maker) -> None:
    """Scaled dot-product attention, of tensors of rank 3 and 4, with masks and caches."""
    element, batch, shared, per = m.float_type(), m.number(1, 2), m.number(1, 2), m.number(1, 2)
    length, total, size, v_size = m.number(1, 4), m.number(1, 4), m.number(1, 4), m.number(1, 4)
    heads = shared * per
    folded = m.flag()

    def operand(n: int, steps: int, width: int) -> Value:
        return m.like(TensorType(element, (batch, steps, n * width) if folded else (batch, n, steps, width)))

    operands: list[Value | None] = [operand(heads, length, size), operand(shared, total, size), operand(shared, total, v_size)]
    past = m.number(1, 3) if m.flag(0.3) else 0
    mask = TensorType(m.pick((BOOL, element)), (*m.pick(((), (heads,), (batch, 1), (batch, heads))), length, past + total))
    operands.append((m.like(mask) if mask.dtype != BOOL or m.flag() else m.tame(mask)) if m.flag() else None)
    operands += [m.like(TensorType(element, (batch, shared, past, w))) if past else None for w in (size, v_size)]
    attributes: dict[str, Any] = {"is_causal": m.flag(0.3), "softcap": m.pick((0.0, 0.0, 2.0)), "outputs": m.pick((1, 1, 3, 4))}
    attributes |= {"q_num_heads": heads, "kv_num_heads": shared} if folded else {}
    attributes |= {"scale": m.pick((None, 0.3)), "qk_matmul_output_mode": m.number(0, 3)}
    if m.flag(0.2):
        attributes |= {"left_window_size": m.number(0, 2), "right_window_size": m.pick((-1, 0, 1))}
    m.b.node(make_op("Attention", attributes), operands)


@step(1)
def rotary(m: Maker) -> None:
    """Rotary position embedding."""
    element, batch, heads, length, half = m.float_type(), m.number(1, 2), m.number(1, 2), m.number(1, 3), m.number(1, 2)
    partial = m.flag(0.3)
    width = 2 * half + (m.number(0, 2) if partial else 0)
    folded, positions = m.flag(), m.flag()
    x = m.like(TensorType(element, (batch, length, heads * width) if folded else (batch, heads, length, width)))
    cache = TensorType(element, (5, half) if positions else (batch, length, half))
    places = m.weight(np.asarray(np.random.default_rng(m.number(0, 99)).integers(0, 5, (batch, length)))) if positions else None
    attributes = {"interleaved": m.flag(), "num_heads": heads if folded else 0, "rotary_embedding_dim": 2 * half if partial else 0}
    m.add(make_op("RotaryEmbedding", attributes), x, m.tame(cache), m.tame(cache), places)


@step(2)
def spectrum(m: Maker) -> None:
    """Fourier transforms and their windows."""
    element = m.float_type()
    match m.number(0, 2):
        case 0:
            inverse, onesided = m.flag(), m.flag()
            parts = 2 if inverse and onesided else m.number(1, 2)
            x = m.like(TensorType(element, (*m.shape(0, 1), m.number(2, 6), *m.shape(0, 1), parts)))
            if not np.isfinite(m.known(x)).all():
                return  # what infinities become depends on the algorithm
            axis = m.number(0, x.type.rank - 2)
            attributes = {"axis": axis - m.pick((0, x.type.rank)), "inverse": inverse, "onesided": onesided}
            if x.type.static_shape[axis] >= 2:
                m.add(make_op("DFT", attributes | ({"length": m.number(2, 7)} if m.flag(0.3) else {})), x)
        case 1:
            frame, length = m.number(2, 4), m.number(5, 9)
            signal = m.like(TensorType(element, (m.number(1, 2), length, *m.pick(((), (1,), (2,))))))
            window = m.tame(TensorType(element, (frame,))) if m.flag() else None
            if not np.isfinite(m.known(signal)).all():
                return
            attributes = {"frame_step": m.number(1, 3), "frame_length": frame, "onesided": m.flag() and signal.type.shape[2:] != (2,)}
            m.add(make_op("STFT", attributes), signal, window)
        case _ if m.flag(0.2):
            edges = {"lower_edge_hertz": 0.0, "upper_edge_hertz": m.pick((4000.0, 8000.0))}
            m.add(make_op("MelWeightMatrix", {"num_mel_bins": m.number(1, 5), "dft_length": 16, "sample_rate": 16000, **edges}))
        case _:
            name = m.pick(("HannWindow", "HammingWindow", "BlackmanWindow"))
            m.add(make_op(name, {"size": m.number(0, 9), "periodic": m.flag(), "dtype": DTYPES["float32"]}))
