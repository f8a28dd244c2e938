"""The pool of artefacts for several threads: its promises under stress, and that results do not depend on who computes them.

Everything that could hang runs in a process of its own with a time limit.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.backends.tvm.package import header, threads
from lepton_compiler.backends.tvm.phases import CHUNK, SHARE, Phase, phase_symbols
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.types import FLOAT32, TensorType
from lepton_compiler.ops.builder import Builder

LIMIT = 60
"""Seconds that a process of these tests may take; they need one or two."""
DRIVER = Path(__file__).with_name("pool_driver.c")
ONE_CPU_EACH = "return CPU_COUNT(&set);"

pytestmark = pytest.mark.timeout(180)


def compiled_driver(folder: Path, *flags: str) -> Path:
    """The driver with a pool of four threads, which starts them even where there are fewer CPUs."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    source = threads.source("pool", 4)
    assert ONE_CPU_EACH in source
    includes = [f"#include <{name}.h>" for name in ("stdbool", "stddef", "stdint")]
    (folder / "pool.h").write_text("\n".join([*includes, *header.POOL, ""]))
    (folder / "pool_threads.h").write_text(threads.header("pool"))
    (folder / "pool_threads.c").write_text(source.replace(ONE_CPU_EACH, "return 4;"))
    command = ["gcc", "-std=gnu11", "-g", "-O2", "-Wall", "-Wextra", "-Werror", *flags, "-I.", str(DRIVER), "pool_threads.c", "-lpthread"]
    done = subprocess.run([*command, "-o", "driver"], cwd=folder, capture_output=True, text=True, timeout=LIMIT)
    if done.returncode and flags:
        pytest.skip(f"gcc cannot build with {' '.join(flags)}: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    return folder / "driver"


def output_of(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_callers_forks_and_pools_of_the_host(tmp_path):
    driver = str(compiled_driver(tmp_path))
    assert output_of([driver, "2000", "10", "4"]) == "ok\n"
    assert output_of([driver, "2000", "0", "1"]) == "ok\n"


@pytest.mark.parametrize("callers", ["1", "3"])
def test_no_data_races(tmp_path, callers):
    driver = str(compiled_driver(tmp_path, "-fsanitize=thread"))
    probe = subprocess.run([driver, "0"], capture_output=True, text=True, timeout=LIMIT)
    if "FATAL: ThreadSanitizer" in probe.stderr:
        pytest.skip(f"ThreadSanitizer does not run here: {probe.stderr.strip()[:200]}")
    assert output_of([driver, "500", "0", callers]) == "ok\n"


def mixed() -> Graph:
    """Kernels of many kinds: Winograd in chunks and whole, products with ragged tails, depthwise, pooling, softmax, normalisation."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        values: np.ndarray = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return values.astype(np.float32)

    graph = Graph("mixed")
    x = graph.add_input("x", TensorType(FLOAT32, (1, 32, 56, 56)))
    b = Builder(graph)

    def conv(value, out, size, stride=1, groups=1):
        w = graph.constant(weight(out, value.type.static_shape[1] // groups, size, size), f"w{len(list(graph))}")
        return b.Relu(b.Conv(value, w, strides=(stride, stride), pads=(size // 2,) * 4, dilations=(1, 1), groups=groups))

    wide = conv(conv(x, 32, 3), 43, 1)
    deep = conv(
        conv(b.MaxPool(conv(wide, 43, 3, 2, 43), kernel_shape=(2, 2), strides=(2, 2), pads=(0,) * 4, dilations=(1, 1)), 256, 1), 256, 3
    )
    rows = b.Reshape(deep, shape=(196, 256))
    scores = b.Softmax(b.MatMul(rows, graph.constant(weight(256, 301), "m")), axis=-1)
    ones = graph.constant(np.ones(301, np.float32), "ones")
    graph.set_outputs([deep, b.LayerNormalization(b.Tanh(scores), ones, axis=-1), b.Sigmoid(wide)])
    return graph


@pytest.fixture(scope="module")
def feeds() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((1, 32, 56, 56)).astype(np.float32)}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Iterator[dict[int, lc.CompiledModel]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEPTON_CACHE", str(tmp_path_factory.mktemp("cache")))
        graph = mixed()
        yield {n: lc.compile(graph, level=3, threads=n, name="mixed") for n in (1, 2, 3, 4)}


@pytest.fixture(scope="module")
def folder(models, feeds, tmp_path_factory) -> Path:
    """The artefact for two threads, with an input and the outputs of one thread."""
    out = Path(tmp_path_factory.mktemp("two")) / "out"
    models[2].save(out)
    np.savez(out / "case.npz", x=feeds["x"], **{f"out{k}": v for k, v in enumerate(models[1].run(feeds).values())})
    return out


def test_the_same_bits_whatever_the_number_of_threads(models, feeds):
    expected = models[1].run(feeds)
    wanted = lc.evaluate(mixed(), feeds)
    for name, value in expected.items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-3, atol=1e-4)
    for n in (2, 3, 4):
        for _ in range(5):
            for name, value in models[n].run(feeds).items():
                np.testing.assert_array_equal(value, expected[name], err_msg=f"{name}, {n} threads")


TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32)
PARALLEL_FOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32, TASK, ctypes.c_void_p)


class HostPool(ctypes.Structure):
    """`lepton_pool` of the header."""

    _fields_ = (("context", ctypes.c_void_p), ("threads", ctypes.c_int32), ("parallel_for", PARALLEL_FOR))


def run_on(model: lc.CompiledModel, x: np.ndarray, pool: HostPool) -> list[np.ndarray]:
    """One run with the threads of a host."""
    outputs = [np.empty(row["shape"], np.float32) for row in model.manifest["outputs"]]
    raw = np.empty(model.manifest["arena_bytes"] + 64, np.uint8)
    arena = raw[-raw.ctypes.data % 64 :]
    pointers = (ctypes.c_void_p * len(outputs))(*(o.ctypes.data for o in outputs))
    status = model.library.handle.mixed_run_on(
        (ctypes.c_void_p * 1)(x.ctypes.data), pointers, ctypes.c_void_p(arena.ctypes.data), ctypes.byref(pool)
    )
    assert status == 0
    return outputs


def on_threads(_context, count, task, data):
    workers = [threading.Thread(target=task, args=(data, k)) for k in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(LIMIT)
        assert not worker.is_alive()


def last_first(_context, count, task, data):
    for k in reversed(range(count)):
        task(data, k)


@pytest.mark.parametrize("how", [on_threads, last_first, None])
@pytest.mark.parametrize("allowed", [1, 3, 64])
def test_the_host_brings_its_own_threads(models, feeds, how, allowed):
    expected = list(models[1].run(feeds).values())
    seen = []

    def watched(context, count, task, data):
        seen.append(count)
        how(context, count, task, data)

    callback = PARALLEL_FOR(watched) if how else PARALLEL_FOR()
    for got, want in zip(run_on(models[4], feeds["x"], HostPool(None, allowed, callback)), expected, strict=True):
        np.testing.assert_array_equal(got, want)
    assert (max(seen) == min(allowed, 4) and min(seen) > 1) if how and allowed > 1 else not seen


RUNS = """
import ctypes, os, signal, sys, threading
import numpy as np
from pathlib import Path
signal.alarm({limit})
folder = Path(sys.argv[1])
case = dict(np.load(folder / "case.npz"))  # read now: the archive has a lock and a file position that a fork would share
wanted = [case[f"out{{k}}"] for k in range(3)]
arena_bytes = int(sys.argv[2])

def run(library, times=1):
    x = case["x"]
    for _ in range(times):
        outputs = [np.empty_like(w) for w in wanted]
        raw = np.empty(arena_bytes + 64, np.uint8)
        arena = raw[-raw.ctypes.data % 64 :]
        pointers = (ctypes.c_void_p * 3)(*(o.ctypes.data for o in outputs))
        assert library.mixed_run((ctypes.c_void_p * 1)(x.ctypes.data), pointers, ctypes.c_void_p(arena.ctypes.data)) == 0
        assert all((o == w).all() for o, w in zip(outputs, wanted))

def child(library):
    pid = os.fork()
    if pid == 0:
        try:
            run(library, 2)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
"""
SCRIPTS = {
    "unloaded and loaded again": """
close = ctypes.CDLL(None).dlclose
close.argtypes = [ctypes.c_void_p]
before = len(os.listdir("/proc/self/task"))
for turn in range(200):
    library = ctypes.CDLL(str(folder / "libmixed.so"))
    if turn % 10 == 0:
        run(library)
    close(library._handle)
assert len(os.listdir("/proc/self/task")) == before
""",
    "forked": """
library = ctypes.CDLL(str(folder / "libmixed.so"))
callers = [threading.Thread(target=run, args=(library, 30)) for _ in range(4)]
for caller in callers:
    caller.start()
for _ in range(5):
    child(library)
for caller in callers:
    caller.join()
child(library)
""",
    "exit in the middle": """
library = ctypes.CDLL(str(folder / "libmixed.so"))
run(library)
threading.Thread(target=run, args=(library, 10**6), daemon=True).start()
ctypes.CDLL(None).usleep(20000)
ctypes.CDLL(None).exit(0)
""",
    "two artefacts": """
import shutil
shutil.copy(folder / "libmixed.so", folder / "libother.so")
libraries = [ctypes.CDLL(str(folder / name)) for name in ("libmixed.so", "libother.so")]
callers = [threading.Thread(target=run, args=(libraries[k % 2], 20)) for k in range(4)]
for caller in callers:
    caller.start()
for caller in callers:
    caller.join()
""",
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc, forks")
@pytest.mark.parametrize("what", list(SCRIPTS))
def test_a_library_that_is(models, folder, what):
    script = RUNS.format(limit=LIMIT) + SCRIPTS[what]
    output_of([sys.executable, "-c", script, str(folder), str(models[2].manifest["arena_bytes"])])


def test_a_model_that_threads_cannot_help_has_no_pool(tmp_path):
    graph = Graph("small")
    x = graph.add_input("x", TensorType(FLOAT32, (64,)))
    graph.set_outputs([Builder(graph).Relu(x)])
    lc.compile(graph, threads=2, name="small").save(tmp_path / "out")
    source = (tmp_path / "out" / "small.c").read_text()
    assert "_share" not in source and "small_run_on" in source
    assert b"pthread_create" not in (tmp_path / "out" / "libsmall.so").read_bytes()


def test_scratch_memory_is_there_for_each_thread(models):
    assert models[4].manifest["arena_bytes"] >= models[1].manifest["arena_bytes"]


def test_phases_are_shared_where_that_pays():
    assert Phase(100, SHARE).tasks(4) == 1
    assert Phase(100, 3 * SHARE).tasks(4) == 3
    assert Phase(2, 100 * SHARE).tasks(4) == 2
    assert Phase(1000, 1000 * CHUNK // 10).grain(2) == 10
    assert Phase(4, 4 * SHARE).grain(4) == 1
    assert phase_symbols("k", 1) == ["k"] and phase_symbols("k", 2) == ["k_0", "k_1"]


def test_too_many_threads_are_refused():
    graph = Graph("small")
    graph.set_outputs([graph.add_input("x", TensorType(FLOAT32, (4,)))])
    with pytest.raises(lc.LeptonError, match="257 threads are too many"):
        lc.compile(graph, threads=257)


def test_no_more_threads_than_cpus(folder, models):
    script = RUNS.format(limit=LIMIT) + (
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "run(ctypes.CDLL(str(folder / 'libmixed.so')), 3)\n"
        "assert len(os.listdir('/proc/self/task')) == before\n"
    )
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("no CPU affinity here")
    output_of([sys.executable, "-c", script, str(folder), str(models[2].manifest["arena_bytes"])])
