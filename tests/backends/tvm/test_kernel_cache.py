"""The folder of compiled kernels, which several compilers use at once."""

from __future__ import annotations

import json
import threading

import pytest

from lepton_compiler.backends.tvm.kernels import Kernel, KernelCache, KernelParameter
from lepton_compiler.backends.tvm.phases import Phase
from lepton_compiler.ir.types import tensor_type

KEY = "0123456789abcdef0123"


def kernel(mark: int) -> Kernel:
    """One that tells by its object, and by its parameter, which it is."""
    return Kernel("k", bytes([mark]) * 5000, (KernelParameter("input", mark, tensor_type("float32[4]")),), (Phase(4, 1),))


def test_a_kernel_comes_back_as_it_was(tmp_path):
    cache = KernelCache(tmp_path)
    assert cache.get(KEY) is None
    cache.put(KEY, kernel(1))
    assert cache.get(KEY) == kernel(1)
    assert sorted(p.name for p in (tmp_path / KEY[:2]).iterdir()) == [f"{KEY}.json", f"{KEY}.o"]


@pytest.mark.parametrize("damage", ["object", "facts", "half"])
def test_damaged_kernels_are_no_kernels(tmp_path, damage):
    cache = KernelCache(tmp_path)
    cache.put(KEY, kernel(1))
    code, facts = (tmp_path / KEY[:2] / f"{KEY}.{end}" for end in ("o", "json"))
    match damage:
        case "object":
            code.write_bytes(code.read_bytes()[:-1])
        case "facts":
            facts.write_text(json.dumps({**json.loads(facts.read_text()), "object_sha256": "0"}))
        case "half":
            facts.write_text(facts.read_text()[:40])
    assert cache.get(KEY) is None
    cache.put(KEY, kernel(2))
    assert cache.get(KEY) == kernel(2)


def test_a_folder_that_cannot_be_written_is_no_error_and_leaves_nothing(tmp_path):
    folder = tmp_path / KEY[:2] / f"{KEY}.o"
    folder.mkdir(parents=True)
    cache = KernelCache(tmp_path)
    cache.put(KEY, kernel(1))
    assert cache.get(KEY) is None
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_writers_at_once_never_show_a_mixture(tmp_path):
    """Threads store different kernels under one key, as two versions of a compiler might; a reader sees one of them or none."""
    marks, problems = range(1, 4), []

    def store(mark: int) -> None:
        cache = KernelCache(tmp_path)
        for _ in range(25):
            cache.put(KEY, kernel(mark))
            found = cache.get(KEY)
            if found is not None and found not in [kernel(m) for m in marks]:
                problems.append(found)

    threads = [threading.Thread(target=store, args=(mark,)) for mark in marks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads) and not problems
    assert len(list((tmp_path / KEY[:2]).iterdir())) == 2
