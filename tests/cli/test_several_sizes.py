"""Artefacts that hold several sizes of a dimension and choose at run time."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.errors import UnsupportedError, UsageError

MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include "unbound.h"
int main(void) {
  static const int64_t sizes[UNBOUND_DIM_BATCH_COUNT] = UNBOUND_DIM_BATCH_SIZES;
  float x[UNBOUND_INPUT_X_SIZE], y[UNBOUND_OUTPUT_Y_SIZE];
  void *arena = aligned_alloc(UNBOUND_ARENA_ALIGN, (UNBOUND_ARENA_BYTES + UNBOUND_ARENA_ALIGN) / UNBOUND_ARENA_ALIGN * UNBOUND_ARENA_ALIGN);
  for (int k = 0; k < UNBOUND_INPUT_X_SIZE; ++k) x[k] = (float)(k % 5);
  for (int i = 0; i < UNBOUND_DIM_BATCH_COUNT; ++i) {
    unbound_inputs inputs = {x, sizes[i]};
    unbound_outputs outputs = {.y = y};
    if (unbound_run(&inputs, &outputs, arena) != UNBOUND_OK) return 1;
    for (int k = 0; k < outputs.y_dims[0] * outputs.y_dims[1]; ++k) printf("%.9g ", y[k]);
  }
  unbound_inputs wrong = {x, 5};
  unbound_outputs outputs = {.y = y};
  return unbound_run(&wrong, &outputs, arena) == UNBOUND_ERROR_SIZE ? 0 : 2;
}
"""


def feed(n: int) -> dict[str, np.ndarray]:
    return {"x": (np.arange(n * 4) % 5).astype(np.float32).reshape(n, 4)}


def test_the_command_line_makes_one_library_of_several_sizes(call, unbound, tmp_path):
    out = tmp_path / "out"
    done = call("leptonc", unbound, "--dim", "batch=4,1,2", "--verify", "--json", "-o", out)
    assert done.status == 0, done.err
    assert done.json["verify"]["ok"]
    model, graph = lc.load(out), lc.import_model(unbound)
    for n in (1, 2, 4, 1):
        found, wanted = model.run(feed(n))["y"], lc.evaluate(graph, feed(n))["y"]
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    with pytest.raises(UsageError, match=r"(?s)shapes \[3, 4\].*batch=1; batch=2; batch=4"):
        model.run(feed(3))


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_c_program_chooses_the_size(call, unbound, tmp_path):
    out = tmp_path / "out"
    assert call("leptonc", unbound, "--dim", "batch=2,3", "--emit", "static", "-o", out, "-q").status == 0
    (tmp_path / "main.c").write_text(MAIN)
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers", f"-I{out}"]
    subprocess.run(["cc", *flags, "main.c", str(out / "libunbound.a"), "-lm", "-o", "main"], cwd=tmp_path, check=True)
    printed = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout
    graph = lc.import_model(unbound)
    wanted = np.concatenate([lc.evaluate(graph, feed(n))["y"].reshape(-1) for n in (2, 3)])
    np.testing.assert_allclose(np.array(printed.split(), np.float32), wanted, rtol=1e-5)


def test_weights_are_stored_once(unbound):
    one, three = lc.compile(unbound, dims={"batch": 2}), lc.compile(unbound, dims={"batch": (2, 3, 4)})
    assert three.manifest["weights_bytes"] == one.manifest["weights_bytes"]
    assert three.manifest["sizes"]["variants"][1] == {"sizes": [3], "inputs": [[3, 4]]}


def test_what_cannot_hold_several_sizes_says_so(call, unbound, tmp_path):
    done = call("leptonc", unbound, "--dim", "batch=1,2", "--emit", "onnx", "-o", tmp_path / "x.onnx")
    assert done.status == 2 and "--emit onnx takes one size of dimension 'batch'" in done.err
    assert not (tmp_path / "x.onnx").exists()
    assert call("leptonc", unbound, "--dim", "batch=1,x").status == 2
    with pytest.raises(UsageError, match="too many"):
        lc.compile(unbound, dims={"batch": range(65)})
    with pytest.raises(UsageError, match=r"has no dimension 'rows'|symbolic dimension"):
        lc.compile(unbound, dims={"rows": (1, 2)})


def test_a_dimension_left_open_beside_them_is_named(tmp_path):
    path = tmp_path / "two.lir"
    path.write_text("graph @g(%x: float32[a,b]) {\n%y = Relu()(%x) : float32[a,b]\nreturn %y\n}\n")
    with pytest.raises(UnsupportedError, match="dimension 'b' must be known"):
        lc.compile(path, dims={"a": (1, 2)})
