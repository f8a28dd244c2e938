"""Where samples come from, and what is said about those that do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compiler.calibration import evaluator_run, observe, open_samples
from lepton_compiler.calibration.images import Preprocessing
from lepton_compiler.errors import UsageError
from lepton_compiler.ir.text import parse_graph

GRAPH = parse_graph("""\
graph @net(%x: float32[1,2], %n: int64[batch]) {
  %y = Relu()(%x) : float32[1,2]
  return %y
}
""")
X, N = np.array([[1.0, -1.0]], np.float32), np.array([3, 4], np.int64)


def read(source, limit=512):
    return list(open_samples(source, GRAPH.inputs, limit))


def samples_of_module():
    return [{"x": X, "n": N}] * 3


def test_every_kind_of_source(tmp_path, monkeypatch):
    for k in range(3):
        np.savez(tmp_path / f"{k}.npz", x=X + k, n=N)
    assert [s["x"][0, 0] for s in read(tmp_path)] == [1, 2, 3]
    assert [s["x"][0, 0] for s in read(str(tmp_path), limit=2)] == [1, 2]
    assert len(read(tmp_path / "0.npz")) == 1
    assert len(read({"x": X, "n": N})) == 1
    assert len(read(samples_of_module)) == 3
    assert len(read(iter(samples_of_module()))) == 3
    (tmp_path / "some_samples.py").write_text("import numpy as np\ndef make():\n    yield {'x': np.zeros((1, 2)), 'n': np.zeros(1, int)}\n")
    monkeypatch.chdir(tmp_path)
    (sample,) = read("some_samples:make")
    assert sample["x"].dtype == np.float32 and sample["n"].dtype == np.int64


def test_an_iterator_can_be_gone_through_again():
    samples = open_samples(iter(samples_of_module()), GRAPH.inputs)
    assert len(list(samples)) == len(list(samples)) == 3


def test_one_array_holds_many_samples():
    many = read({"x": np.arange(10, dtype=np.float32).reshape(5, 2), "n": N})
    assert len(many) == 5 and many[3]["x"].tolist() == [[6, 7]] and many[3]["n"].tolist() == [3, 4]
    stacked = read({"x": np.zeros((4, 1, 2), np.float32), "n": np.zeros((4, 7), np.int64)})
    assert len(stacked) == 4 and stacked[0]["n"].shape == (7,)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"x": X}, "input 'n' is missing"),
        ({"x": X, "n": N, "z": X}, "no input 'z'; the model has x, n"),
        ({"x": np.zeros((1, 3), np.float32), "n": N}, r"input 'x' is float32\[1,2\], the sample has shape \(1, 3\)"),
        ({"x": np.zeros(2, np.float32), "n": N}, r"the sample has shape \(2,\)"),
        ({"x": X.astype(np.int32), "n": N}, "input 'x' is float32, not int32"),
        ({"x": np.array([[np.nan, 0]], np.float32), "n": N}, "input 'x' holds NaN or infinity"),
        ([X, N], "sample 1 of the calibration data is a list, not a dict"),
    ],
)
def test_samples_that_do_not_fit_are_named(sample, message):
    with pytest.raises(UsageError, match=message):
        read([sample])


def test_sources_that_do_not_work(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 nonsense")
    for source, message in [
        (empty, "holds no .npy, .npz or image files"),
        (tmp_path / "broken.npz", "cannot read"),
        (tmp_path / "none.npz", "cannot read"),
        ("no/such/folder", "no such calibration data"),
        ("no_such_module:make", "cannot load 'no_such_module:make'"),
        (3, "cannot calibrate with a int"),
        ([], "holds no sample"),
        (lambda: 1 / 0, "ZeroDivisionError"),
    ]:
        with pytest.raises(UsageError, match=message):
            read(source)


def test_a_model_that_fails_on_the_data_is_named():
    graph = parse_graph("graph @g(%x: float32[1,2]) {\n  %y = Log()(%x) : float32[1,2]\n  return %y\n}\n")
    with pytest.raises(UsageError, match="sample 2 of the calibration data makes 'y' infinite or not a number"):
        observe(evaluator_run(graph, ["y"]), [{"x": X + 2}, {"x": X}], {"y": None})


def test_images_are_scaled_cropped_and_ordered(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, 2:6] = (10, 20, 30)
    pillow.fromarray(pixels).save(tmp_path / "a.png")
    graph = parse_graph("graph @g(%x: float32[1,3,4,4]) {\n  %y = Relu()(%x) : float32[1,3,4,4]\n  return %y\n}\n")
    (sample,) = open_samples(f"{tmp_path}{{mean=10+10+10,std=10,channels=bgr,fit=crop}}", graph.inputs)
    assert sample["x"].shape == (1, 3, 4, 4) and sample["x"].dtype == np.float32
    assert sample["x"][0, :, 0, 0].tolist() == [2, 1, 0]
    for text in ("mean=x", "size=3", "std=0", "channels=cmyk"):
        with pytest.raises(UsageError):
            Preprocessing.parse(text)
