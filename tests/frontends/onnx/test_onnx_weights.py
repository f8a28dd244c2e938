"""Weights: every element type, lazy external data, and files that must be refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

from lepton_compiler.errors import ModelError
from lepton_compiler.frontends.onnx import import_onnx
from lepton_compiler.frontends.onnx.weights import ELEMENT_TYPES, read_tensor
from lepton_compiler.ir.tensor import FileTensor


@pytest.mark.parametrize("number", sorted(ELEMENT_TYPES))
@pytest.mark.parametrize("raw", [True, False])
def test_all_element_types_read_as_onnx_reads_them(number: int, raw: bool) -> None:
    element = ELEMENT_TYPES[number].numpy
    values = np.array([0, 1, 1, 0, 1], np.float32).astype(element) if element.kind != "c" else np.array([1 + 2j, 3 - 1j], element)
    proto = onnx.numpy_helper.from_array(values, "w") if raw else None
    if proto is None:
        plain = [complex(v) if element.kind == "c" else float(v) if "float" in element.name else int(v) for v in values]
        proto = onnx.helper.make_tensor("w", number, values.shape, plain)
    read = read_tensor(proto, None)
    assert read.type.dtype == ELEMENT_TYPES[number]
    np.testing.assert_array_equal(read.numpy().astype(np.complex64), values.astype(np.complex64))


def test_negative_int4_is_sign_extended() -> None:
    values = np.array([-8, 7, -1, 3, -5], ml_dtypes.int4)
    np.testing.assert_array_equal(read_tensor(onnx.numpy_helper.from_array(values), None).numpy().astype(int), [-8, 7, -1, 3, -5])


def test_wrong_number_of_bytes_is_refused() -> None:
    proto = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[2**40, 2**40], raw_data=b"\0" * 8)
    with pytest.raises(ModelError, match=r"tensor 'w'.*takes"):
        read_tensor(proto, None)


def model_with_external(folder: Path, location: str = "w.bin", **more: object) -> Path:
    weight = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        weight.external_data.add(key=key, value=str(value))
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [4]) for n in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    path = folder / "model.onnx"
    path.write_bytes(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]).SerializeToString())
    return path


def test_external_data_stays_in_its_file(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"pad " + np.arange(4, dtype=np.float32).tobytes())
    graph = import_onnx(model_with_external(tmp_path, offset=4, length=16))
    (weight,) = graph.constants
    assert isinstance(weight.tensor, FileTensor)
    np.testing.assert_array_equal(weight.numpy(), np.arange(4))


@pytest.mark.parametrize("location", ["/etc/passwd", "../w.bin", "sub/../../w.bin", "", "a\0b", "missing.bin", "."])
def test_locations_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(16))
    with pytest.raises(ModelError, match="external data"):
        import_onnx(model_with_external(tmp_path / "inside", location))


@pytest.mark.parametrize("more", [{"offset": 1}, {"offset": -1}, {"length": 12}, {"offset": 2**63}, {"length": "many"}])
def test_ranges_outside_the_file_are_refused(tmp_path: Path, more: dict[str, Any]) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(16))
    with pytest.raises(ModelError, match="external data"):
        import_onnx(model_with_external(tmp_path, **more))


def test_links_are_refused(tmp_path: Path) -> None:
    target = tmp_path / "secret"
    target.write_bytes(bytes(16))
    model, link = model_with_external(tmp_path), tmp_path / "w.bin"
    link.symlink_to(target)
    with pytest.raises(ModelError, match="links are not followed"):
        import_onnx(model)
    link.unlink()
    os.link(target, link)
    with pytest.raises(ModelError, match="hard links"):
        import_onnx(model)


def test_linked_folders_do_not_lead_out(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "w.bin").write_bytes(bytes(16))
    (inside / "sub").symlink_to(outside)
    with pytest.raises(ModelError, match="outside the model's folder"):
        import_onnx(model_with_external(inside, "sub/w.bin"))


def test_external_data_needs_a_file(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(16))
    with pytest.raises(ModelError, match="not read from a file"):
        import_onnx(model_with_external(tmp_path).read_bytes())
