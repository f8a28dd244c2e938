"""What a firmware engineer asks of the library: what does it need, what does it export?"""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

LIBC = {"libc.so.6", "libm.so.6", "libpthread.so.0"}


@pytest.fixture
def library(call, tiny, tmp_path):
    assert call("leptonc", tiny, "-o", tmp_path / "out").status == 0
    return tmp_path / "out" / "libtiny.so"


def _output(*command: object) -> str:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout


def test_needs_nothing_but_the_c_library(library):
    needed = set(re.findall(r"Shared library: \[(.*?)\]", _output("readelf", "-d", library)))
    assert needed <= LIBC, needed


def test_exports_only_its_own_name(library):
    exported = [line.split()[-1] for line in _output("nm", "-D", "--defined-only", library).splitlines()]
    assert exported == ["tiny_run"]


def test_calls_neither_heap_nor_runtime(library):
    undefined = {line.split()[-1].split("@")[0] for line in _output("nm", "-D", "--undefined-only", library).splitlines()}
    assert not {name for name in undefined if re.search("alloc|free|tvm|TVM", name)}, undefined


def test_holds_no_paths(library, tmp_path):
    data = library.read_bytes()
    assert str(tmp_path).encode() not in data and b"/home/" not in data and b"/tmp/" not in data
