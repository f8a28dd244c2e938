"""The models that the `onnx` package ships, most of them exported by PyTorch in opset 6, against their stored outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.frontends.onnx import import_onnx
from lepton_compiler.ops.evaluator import evaluate

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
MODELS = sorted(DATA.glob("*/*/model.onnx"))
OUT_OF_SCOPE = ("test_gradient_", "test_sequence_model", "test_strnorm_model")
"""Training, sequences, text."""


def tensors(folder: Path, prefix: str) -> list[np.ndarray]:
    """The arrays PREFIX_0.pb, PREFIX_1.pb, ..."""
    count = len(list(folder.glob(f"{prefix}_*.pb")))
    protos = [onnx.TensorProto.FromString((folder / f"{prefix}_{i}.pb").read_bytes()) for i in range(count)]
    return [numpy_helper.to_array(proto) for proto in protos]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.parent.name)
def test_stored_models_give_their_stored_outputs(path: Path) -> None:
    if path.parent.name.startswith(OUT_OF_SCOPE):
        with pytest.raises(UnsupportedError, match="is not supported: it"):
            import_onnx(path)
        return
    model = onnx.load(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    names = [formal.name for formal in model.graph.input if formal.name not in constants]
    for folder in path.parent.glob("test_data_set_*"):
        feeds = dict(zip(names, tensors(folder, "input"), strict=True))
        got = evaluate(import_onnx(path, {name: array.shape for name, array in feeds.items()}), feeds)
        for formal, want in zip(model.graph.output, tensors(folder, "output"), strict=True):
            assert got[formal.name].dtype == want.dtype
            np.testing.assert_allclose(got[formal.name], want, rtol=1e-3, atol=1e-5)


def test_most_of_them_are_old() -> None:
    versions = [onnx.load(path).opset_import[0].version for path in MODELS]
    assert len(versions) > 100 and versions.count(6) > 100
