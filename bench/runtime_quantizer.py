"""ONNX Runtime's own quantizer, on the same calibration data, to compare with."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Reader:
    """Samples as ONNX Runtime's quantizer reads them."""

    def __init__(self, samples: Sequence[Mapping[str, np.ndarray]]) -> None:
        self.samples, self._left = samples, iter(samples)

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        """The next sample, or None after the last."""
        return next(self._left, None)

    def rewind(self) -> None:
        """Start again."""
        self._left = iter(self.samples)

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
        return iter(self.samples)


LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
"""Operators that multiply by weights."""


def quantize_static(
    model: Path,
    samples: Sequence[Mapping[str, np.ndarray]],
    method: str,
    per_channel: bool = True,
    operators: Sequence[str] | None = None,
) -> bytes:
    """The model as QDQ, weights in int8, data in uint8.

    Args:
        model: a float ONNX file.
        samples: feeds.
        method: `minmax`, `percentile` or `entropy`.
        per_channel: whether weights have a scale per channel.
        operators: the only ones to quantize; all that it can by default.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quant_pre_process
    from onnxruntime.quantization import quantize_static as run

    chosen = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile, "entropy": CalibrationMethod.Entropy}[method]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        whole, prepared, out = (Path(folder) / f"{name}.onnx" for name in ("whole", "prepared", "quantized"))
        level, root = logging.getLogger().level, logging.getLogger()
        root.setLevel(logging.ERROR)
        try:
            onnx.save(_per_channel_opset(model), str(whole))  # a model in memory makes the next step fail where it has small constants
            quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
            run(
                str(prepared), str(out), Reader(samples), quant_format=QuantFormat.QDQ, per_channel=per_channel, activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8, calibrate_method=chosen, op_types_to_quantize=None if operators is None else list(operators),
            )  # fmt: skip
        finally:
            root.setLevel(level)
        return out.read_bytes()


def quantize_as_it_can(model: Path, samples: Sequence[Mapping[str, np.ndarray]], operators: Sequence[str] | None = None) -> bytes:
    """By least and largest numbers, weights with a scale per channel, or with a single one where the quantizer trips over small biases."""
    try:
        return quantize_static(model, samples, "minmax", operators=operators)
    except ValueError:
        return quantize_static(model, samples, "minmax", per_channel=False, operators=operators)


def _per_channel_opset(model: Path) -> Any:
    """The model in an opset that has scales per channel: at least 13."""
    import onnx
    import onnx.version_converter

    loaded = onnx.load(str(model))
    old = any(row.domain in ("", "ai.onnx") and row.version < 13 for row in loaded.opset_import)
    return onnx.version_converter.convert_version(loaded, 17) if old else loaded


def quantize_dynamic(model: Path) -> bytes:
    """The model with dynamically quantized products."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as run

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        out = Path(folder) / "quantized.onnx"
        run(str(model), str(out), per_channel=True, weight_type=QuantType.QInt8)
        return out.read_bytes()


def session_run(model: bytes | Path) -> Any:
    """A function from feeds to outputs by name, through ONNX Runtime."""
    from lepton_compiler.verification import onnxruntime_session

    session = onnxruntime_session(model)
    names = [o.name for o in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))
