"""CUDA C for attention: scores, softmax and weighted sums in one kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lepton_compiler.backends.cuda.tensor_cores.device import Device
from lepton_compiler.backends.cuda.tensor_cores.problem import BYTES, Element, Epilogue, Launch, Matrix, Plan
from lepton_compiler.backends.cuda.tensor_cores.sources import Source, matrix_source
from lepton_compiler.errors import UnsupportedError

LARGEST_HEAD = {"float16": 256, "bfloat16": 256, "float32": 128}
"""Elements of a key or a value, by what is multiplied: registers and shared memory hold no more."""
ROWS = {"float16": 16, "bfloat16": 16, "float32": 32}
"""Queries of a warp."""
WARPS = (4, 2, 1)


@dataclass(frozen=True)
class Rows:
    """Queries, keys or values: vectors of contiguous elements.

    Attributes:
        pointer: the kernel's parameter, aligned to 16 bytes.
        batch, head, row: elements from one to the next.
    """

    pointer: str
    batch: int
    head: int
    row: int


@dataclass(frozen=True)
class Attention:
    """out[b][h][q] = sum over keys of softmax(score(scale * query . key)) * value; a query that sees no key gives zeros.

    The epilogue takes the batch `b * heads + h`, `m` = query and `n` = element of the value.

    Attributes:
        element: of all operands: float32, float16 or bfloat16; the latter two are multiplied on tensor cores.
        kv_heads: heads of keys and values; `heads / kv_heads` neighbouring heads of queries share one.
        head, value_head: elements of a key, and of a value.
        causal: a query sees keys up to its own number plus this; None where it sees all.
        score: whether the epilogue's helpers have `float SYMBOL_score(<all pointers>, int batch, int q, int k, float score)`, which masks and caps:
            minus infinity for what is not seen.
    """

    query: Rows
    key: Rows
    value: Rows
    element: Element
    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    head: int
    value_head: int
    scale: float
    causal: int | None = None
    score: bool = False


def generate_attention(symbol: str, attention: Attention, epilogue: Epilogue, device: Device) -> Plan:
    """One kernel, called `symbol`.

    Raises:
        UnsupportedError: heads are larger than `LARGEST_HEAD`.
    """
    most = LARGEST_HEAD[attention.element]
    if max(attention.head, attention.value_head) > most:
        raise UnsupportedError(f"attention of {attention.element} with heads of more than {most} elements does not fit one kernel")
    warps = _warps(attention, device)
    queries, threads = warps * ROWS[attention.element], warps * 32
    head, width = _rounded(attention.head), _rounded(attention.value_head)
    block_keys = 32 if attention.element == "float32" or max(head, width) > 128 else 64
    blocks = math.ceil(attention.queries / queries)
    tiles = _tiles(attention, queries, block_keys, head, width, threads)
    size = BYTES[attention.element]
    shared = (queries * head + 2 * block_keys * (head + width)) * size
    if attention.element == "float32":
        shared += queries * (block_keys + 4) * 4
    text = _kernel(symbol, attention, epilogue, tiles, blocks, threads, f"{warps}, {block_keys}, {head}, {width}")
    launch = Launch(symbol, (blocks * attention.batch * attention.heads, 1, 1), (threads, 1, 1), epilogue.arguments, shared)
    return Plan(f"{epilogue.helpers}\n{text}", (launch,))


def _warps(attention: Attention, device: Device) -> int:
    """The most warps of a block with which all multiprocessors have one; one, where there are too few queries."""
    for warps in WARPS:
        blocks = math.ceil(attention.queries / (warps * ROWS[attention.element])) * attention.batch * attention.heads
        if blocks >= device.processors:
            return warps
    return 1


def _rounded(size: int) -> int:
    """Elements of a vector in shared memory: a power of two, so that chunks can be exchanged."""
    return max(32, 1 << (size - 1).bit_length())


def _tiles(attention: Attention, queries: int, keys: int, head: int, width: int, threads: int) -> list[tuple[str, Source, str]]:
    """Name, source and C++ type of the tiles of queries, keys and values."""
    a = attention
    shared = (a.batch, a.kv_heads, a.heads // a.kv_heads)

    def matrix(rows: Rows, batch: tuple[int, ...]) -> Matrix:
        return Matrix(rows.pointer, a.element, rows.row, 1, batch)

    q = matrix_source(matrix(a.query, (a.query.batch, a.query.head)), a.queries, a.head, a.query.row, 1, (a.batch, a.heads))
    k = matrix_source(matrix(a.key, (a.key.batch, a.key.head, 0)), a.keys, a.head, a.key.row, 1, shared)
    v = matrix_source(matrix(a.value, (a.value.batch, a.value.head, 0)), a.value_head, a.keys, 1, a.value.row, shared)
    return [("Q", q, q.tile(queries, head, threads)), ("K", k, k.tile(keys, head, threads)), ("V", v, v.tile(width, keys, threads))]


def _kernel(
    symbol: str, attention: Attention, epilogue: Epilogue, tiles: list[tuple[str, Source, str]], blocks: int, threads: int, sizes: str
) -> str:
    a, names = attention, ", ".join(epilogue.arguments)
    vector = math.gcd(a.value_head, min(4, 16 // epilogue.size)) if epilogue.rows else 1
    if a.element != "float32":
        vector = min(vector, 2)
    kind: dict[Element, str] = {
        "float16": "on_tensor_cores<lepton::Arithmetic::f16, ",
        "bfloat16": "on_tensor_cores<lepton::Arithmetic::bf16, ",
    }
    causal = f"{'false' if a.causal is None else 'true'}, {a.causal or 0}"
    call = f"lepton::attend_{kind.get(a.element, 'in_fp32<')}{sizes}, {a.head}, {a.queries}, {a.keys}, {causal}, Q, K, V>"
    scaled = f"lepton_sum * {a.scale!r}f"
    score = f"{epilogue.symbol}_score({names}, lepton_batch, lepton_q, lepton_k, {scaled})" if a.score else scaled
    origins = ", ".join(f"{name}::Origin{source.value}" for name, source, _ in tiles)
    lines = [
        f'extern "C" __global__ void __launch_bounds__({threads}) {symbol}({epilogue.parameters}) {{',
        *(f"  {p} = static_cast<decltype({p})>(__builtin_assume_aligned({p}, 16));" for p in epilogue.arguments),
        "  extern __shared__ __align__(128) char lepton_tiles[];",
        f"  int lepton_batch = blockIdx.x / {blocks}, lepton_first = blockIdx.x % {blocks} * {threads // 32 * ROWS[a.element]};",
        *(f"  using {name} = {type};" for name, _, type in tiles),
        f"  auto lepton_score = [&](int lepton_q, int lepton_k, float lepton_sum) {{ return {score}; }};",
        f"  auto lepton_value = [&](int lepton_batch, int lepton_m, int lepton_n, float lepton_sum) {{ return {epilogue.symbol}_value({names}, lepton_batch, lepton_m, lepton_n, lepton_sum); }};",
        f"  auto lepton_place = [&](int lepton_batch, int lepton_m, int lepton_n) {{ return {epilogue.symbol}_place({names}, lepton_batch, lepton_m, lepton_n); }};",
        f"  lepton::Finished<{epilogue.type}, {a.queries}, {a.value_head}, {vector}, decltype(lepton_value), decltype(lepton_place)> "
        f"lepton_store{{{epilogue.output}, lepton_batch, lepton_value, lepton_place}};",
        f"  {call}({origins}, lepton_tiles, lepton_first, lepton_score, lepton_store);",
        "}",
        "",
    ]
    return "\n".join(lines)
