from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from lepton_compiler.backends.tvm.cuda.tensor_cores import Attention, Epilogue, Plan, Rows, device_of, generate_attention, library
from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ops.attention import Attention as Op
from lepton_compiler.testing.cuda_emulator import available, run

NUMPY = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
C_TYPES = {"float32": "float", "float16": "unsigned short", "bfloat16": "unsigned short"}
TOLERANCE = {"float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}
"""Of the largest result; weights are rounded to the type of the values before they are multiplied."""

CASES: dict[str, dict[str, Any]] = {
    "half": {"element": "float16", "queries": 40, "keys": 72, "head": 64, "value_head": 64, "heads": 2, "kv_heads": 2},
    "half_odd": {"element": "float16", "queries": 33, "keys": 19, "head": 20, "value_head": 35, "heads": 4, "kv_heads": 2},
    "half_causal": {"element": "float16", "queries": 70, "keys": 70, "head": 32, "value_head": 32, "heads": 1, "kv_heads": 1, "causal": 0},
    "bfloat_masked": {
        "element": "bfloat16",
        "queries": 20,
        "keys": 80,
        "head": 32,
        "value_head": 128,
        "heads": 3,
        "kv_heads": 3,
        "score": True,
    },
    "fp32": {"element": "float32", "queries": 40, "keys": 50, "head": 64, "value_head": 32, "heads": 2, "kv_heads": 1},
    "fp32_odd_causal": {
        "element": "float32",
        "queries": 37,
        "keys": 45,
        "head": 23,
        "value_head": 29,
        "heads": 3,
        "kv_heads": 3,
        "causal": 8,
    },
    "fp32_masked": {
        "element": "float32",
        "queries": 5,
        "keys": 90,
        "head": 16,
        "value_head": 128,
        "heads": 2,
        "kv_heads": 2,
        "score": True,
    },
    "half_shared": {
        "element": "float16",
        "queries": 18,
        "keys": 290,
        "head": 64,
        "value_head": 64,
        "heads": 1,
        "kv_heads": 1,
        "causal": 100,
    },
    "bfloat_shared": {
        "element": "bfloat16",
        "queries": 1,
        "keys": 130,
        "head": 128,
        "value_head": 40,
        "heads": 4,
        "kv_heads": 2,
        "score": True,
    },
    "fp32_shared": {
        "element": "float32",
        "queries": 9,
        "keys": 150,
        "head": 32,
        "value_head": 64,
        "heads": 2,
        "kv_heads": 2,
        "score": True,
    },
    "fp32_single": {"element": "float32", "queries": 1, "keys": 64, "head": 128, "value_head": 1, "heads": 2, "kv_heads": 1},
    "half_wide": {"element": "float16", "queries": 70, "keys": 70, "head": 32, "value_head": 32, "heads": 1, "kv_heads": 1, "causal": 0},
    "half_wide_plain": {"element": "float16", "queries": 150, "keys": 128, "head": 64, "value_head": 40, "heads": 1, "kv_heads": 1},
    "bfloat_wide": {
        "element": "bfloat16",
        "queries": 33,
        "keys": 50,
        "head": 128,
        "value_head": 128,
        "heads": 1,
        "kv_heads": 1,
        "score": True,
    },
    "fp32_wide": {"element": "float32", "queries": 70, "keys": 40, "head": 20, "value_head": 32, "heads": 1, "kv_heads": 1},
}
BATCH = 2


def sizes(queries, keys, head, value_head, heads, kv_heads, **_):
    return (BATCH, heads, queries, head), (BATCH, kv_heads, keys, head), (BATCH, kv_heads, keys, value_head)


def plan(symbol: str, processors: int = 108, **fields) -> Plan:
    operands = ["query", "key", "value", "mask"]
    kind = C_TYPES[fields["element"]]
    parameters = ", ".join([*(f"const {'float' if p == 'mask' else kind} *__restrict__ {p}" for p in operands), "float *__restrict__ out"])
    heads, kv_heads = fields.pop("heads"), fields.pop("kv_heads")
    (_, _, queries, head), (*_, keys, _), (*_, value_head) = sizes(heads=heads, kv_heads=kv_heads, **fields)
    group = heads // kv_heads
    q = Rows("query", (heads * queries * head, group * queries * head, queries * head), head)
    k, v = (Rows(p, (kv_heads * keys * n, keys * n, 0), n) for p, n in (("key", head), ("value", value_head)))
    head = "static __device__ __forceinline__"
    helpers = (
        f"{head} float {symbol}_value({parameters}, int batch, int m, int n, float sum) {{ return sum; }}\n"
        f"{head} int {symbol}_place({parameters}, int batch, int m, int n) "
        f"{{ return (batch * {fields['queries']} + m) * {fields['value_head']} + n; }}\n"
        f"{head} float {symbol}_score({parameters}, int batch, int q, int k, float score) {{ return score + mask[q * {fields['keys']} + k]; }}\n"
    )
    device = replace(device_of("sm_80"), processors=processors)
    epilogue = Epilogue(symbol, helpers, parameters, (*operands, "out"), "out", "float", 4)
    return generate_attention(
        symbol, Attention(q, k, v, batch=(BATCH, kv_heads, group), scale=0.2, empty="zeros", **fields), epilogue, device
    )


@pytest.fixture(scope="module")
def plans() -> dict[str, Plan]:
    return {name: plan(name, 1 if "wide" in name else 108, **fields) for name, fields in CASES.items()}


@pytest.mark.skipif(bool(available()), reason=available())
@pytest.mark.parametrize("name", CASES)
def test_kernels_agree_with_the_evaluator(name, plans):
    fields = CASES[name]
    rng = np.random.default_rng(len(name))
    q, k, v = (rng.standard_normal(s).astype(NUMPY[fields["element"]]) for s in sizes(**fields))
    mask = rng.standard_normal((fields["queries"], fields["keys"])).astype(np.float32)
    mask[-1, 1:] = -np.inf
    mask[1:2] = -np.inf
    wide = [a.astype(np.float32) for a in (q, k, v)]
    operands: list[Any]
    op = Op(scale=0.2, is_causal=fields.get("causal") is not None)
    if fields.get("causal"):  # keys before the block of queries
        past = fields["causal"]
        operands = [wide[0], *(a[:, :, past:] for a in wide[1:]), None, *(a[:, :, :past] for a in wide[1:])]
    else:
        operands = [*wide, mask] if fields.get("score") else wide
    expected = op.evaluate(*operands)[0]
    out = np.full(expected.shape, 99, np.float32)
    text = "\n".join([library(), *(p.text for p in plans.values())])
    (launch,) = plans[name].launches
    figures = run(text, name, launch.grid, launch.block, launch.shared_bytes, [q, k, v, mask, out], backwards=len(name) % 2 == 0)
    assert np.abs(out - expected).max() <= TOLERANCE[fields["element"]] * np.abs(expected).max()
    assert figures.matrix_load_conflicts == 0


def test_many_queries_have_larger_blocks_and_few_share_warps():
    fields: dict[str, Any] = {"element": "float16", "keys": 512, "head": 64, "value_head": 64, "heads": 12, "kv_heads": 12}
    few = plan("few", queries=64, **fields)
    assert few.launches[0].block[0] == 128
    assert few.launches[0].grid[0] == BATCH * 12 * 64 // 16
    many, more = plan("many", queries=512, **fields), plan("more", queries=1024, **fields)
    assert many.launches[0].block[0] == more.launches[0].block[0] == 128
    assert many.launches[0].grid == more.launches[0].grid == (BATCH * 12 * 8, 1, 1)


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(UnsupportedError, match="heads of more than 128 elements"):
        plan("large", element="float32", queries=4, keys=4, head=160, value_head=4, heads=1, kv_heads=1)


@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
def test_kernels_compile_without_spilling(tmp_path):
    common: dict[str, Any] = {"queries": 512, "keys": 512, "heads": 12, "kv_heads": 12}
    chosen = [
        plan("half", element="float16", head=128, value_head=128, **common),
        plan("fp32", element="float32", head=64, value_head=64, **common),
        plan("two_parts", 1, element="float16", head=64, value_head=64, **common),
        plan("shared", 1000, element="float16", head=64, value_head=64, **common),
    ]
    (tmp_path / "unit.cu").write_text("\n".join([library(), *(p.text for p in chosen)]))
    command = [
        "nvcc",
        "-std=c++17",
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-fatbin",
        "-Xptxas",
        "-v",
    ]
    done = subprocess.run([*command, "unit.cu", "-o", "unit.fatbin"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"(\d+) bytes spill stores", done.stderr)) == {"0"}
