"""The functions that firmware brings along, compiled for this machine and held against numpy on corners."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lepton_compiler.backends.tvm.package import libm

CORNERS = [0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 0.49999997, -0.49999997, 3.7, -3.7, 8388607.5, -8388608.5, 4503599627370495.5, 1e30, -1e30]
SPECIAL = [*CORNERS, np.inf, -np.inf, np.nan, 1e-45, -1e-45]
EXPECTED = {"floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "rint": np.rint, "nearbyint": np.rint, "roundeven": np.rint}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    folder: Path = tmp_path_factory.mktemp("libm")
    names = [name for name in libm.FUNCTIONS if not name.startswith("__aeabi")]
    text = libm.source(names).replace("hidden", "default")
    for name in names:
        text = text.replace(f" {name}(", f" own_{name}(")
    (folder / "own.c").write_text(text)
    command = [compiler, "-std=c99", "-O2", "-fno-builtin", "-Wall", "-Werror", "-fPIC", "-shared", "own.c", "-o", "own.so"]
    subprocess.run(command, cwd=folder, check=True, timeout=120)
    return ctypes.CDLL(str(folder / "own.so"))


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize(("suffix", "kind", "number"), [("f", ctypes.c_float, np.float32), ("", ctypes.c_double, np.float64)])
def test_rounding(library: ctypes.CDLL, name: str, suffix: str, kind: type, number: type) -> None:
    function = library[f"own_{name}{suffix}"]
    function.restype, function.argtypes = kind, [kind]
    values = np.concatenate([np.array(SPECIAL, number), np.random.default_rng(0).uniform(-1e5, 1e5, 500).astype(number)])
    got: np.ndarray = np.array([function(v) for v in values.tolist()], number)
    want = EXPECTED[name](values)
    np.testing.assert_array_equal(got, want)
    finite = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got[finite]), np.signbit(want[finite]))


def test_half_away_and_remainder(library: ctypes.CDLL) -> None:
    away, remainder = library["own_roundf"], library["own_fmodf"]
    away.restype, away.argtypes = ctypes.c_float, [ctypes.c_float]
    remainder.restype, remainder.argtypes = ctypes.c_float, [ctypes.c_float, ctypes.c_float]
    assert [away(v) for v in (0.5, -0.5, 1.5, 2.5, -2.5, 0.4)] == [1, -1, 2, 3, -3, 0]
    for x, y in ((5.5, 2.0), (-5.5, 2.0), (1e9, 3.0), (0.25, 7.0), (7.0, -2.5)):
        assert remainder(x, y) == np.fmod(np.float32(x), np.float32(y))
    assert np.isnan(remainder(1.0, 0.0)) and np.isnan(remainder(np.inf, 2.0))
