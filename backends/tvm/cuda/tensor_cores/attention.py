"""CUDA C for attention: scores, softmax and weighted sums in one kernel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lepton_compiler.analysis.attention import Empty
from lepton_compiler.backends.tvm.cuda.tensor_cores.device import Device
from lepton_compiler.backends.tvm.cuda.tensor_cores.problem import BYTES, Element, Epilogue, Launch, Matrix, Plan
from lepton_compiler.backends.tvm.cuda.tensor_cores.sources import Source, matrix_source
from lepton_compiler.backends.tvm.cuda.text.order import AFTER_PREVIOUS
from lepton_compiler.errors import UnsupportedError

LARGEST_HEAD = {"float16": 256, "bfloat16": 256, "float32": 128}
"""Elements of a key or a value, by what is multiplied: registers and shared memory hold no more."""
LARGEST_OF_TWO = 64
"""Elements of a key or a value up to which a warp has two times sixteen queries on tensor cores, which read keys and values once."""
WARPS = (4, 2, 1)


@dataclass(frozen=True)
class Rows:
    """Queries, keys or values: vectors of contiguous elements.

    Attributes:
        pointer: the kernel's parameter, aligned to 16 bytes.
        steps: elements from one matrix to the next along each axis of the batch; 0 where all share one.
        row: elements from one vector to the next.
        offset: elements before the first one.
    """

    pointer: str
    steps: tuple[int, ...]
    row: int
    offset: int = 0


@dataclass(frozen=True)
class Attention:
    """out[batch][q] = sum over keys of softmax(score(scale * query . key)) * value.

    The epilogue takes the batch, the last axis counting fastest, `m` = query and `n` = element of the value.

    Attributes:
        element: of all operands: float32, float16 or bfloat16; the latter two are multiplied on tensor cores.
        batch: sizes of its axes; heads of queries that share keys and values are one, too.
        head, value_head: elements of a key, and of a value.
        empty: what a query gets that sees no key, all its scores being minus infinity.
        causal: a query sees keys up to its own number plus this; None where it sees all.
        score: whether the epilogue's helpers have `float SYMBOL_score(<all pointers>, int batch, int q, int k, float score)`, which masks and caps:
            minus infinity for what is not seen.
    """

    query: Rows
    key: Rows
    value: Rows
    element: Element
    batch: tuple[int, ...]
    queries: int
    keys: int
    head: int
    value_head: int
    scale: float
    causal: int | None = None
    score: bool = False
    empty: Empty = "nan"


@dataclass(frozen=True)
class Blocks:
    """How the work is cut.

    Attributes:
        rows: queries of a warp.
        warps: of a block.
        splits: warps that share their queries and take turns at the keys; 1, or all of them.
        keys: of a tile.
    """

    rows: int
    warps: int
    splits: int
    keys: int

    @property
    def queries(self) -> int:
        """Of a block."""
        return self.warps // self.splits * self.rows


def generate_attention(symbol: str, attention: Attention, epilogue: Epilogue, device: Device) -> Plan:
    """One kernel, called `symbol`.

    Raises:
        UnsupportedError: heads are larger than `LARGEST_HEAD`.
    """
    most = LARGEST_HEAD[attention.element]
    if max(attention.head, attention.value_head) > most:
        raise UnsupportedError(f"attention of {attention.element} with heads of more than {most} elements does not fit one kernel")
    blocks = next(b for b in _choices(attention, device) if shared_bytes(attention, b) <= device.shared_per_block)
    launch = Launch(
        symbol,
        (math.ceil(attention.queries / blocks.queries) * math.prod(attention.batch), 1, 1),
        (blocks.warps * 32, 1, 1),
        epilogue.arguments,
        shared_bytes(attention, blocks),
    )
    return Plan(f"{epilogue.helpers}\n{_kernel(symbol, attention, epilogue, blocks)}", (launch,))


def _choices(attention: Attention, device: Device) -> Iterator[Blocks]:
    """Best first: the most warps of a block with which all multiprocessors have one; where there are too few queries, warps share them."""
    narrow = attention.element != "float32"
    largest = max(_rounded(attention.head), _rounded(attention.value_head))
    keys = 64 if narrow and largest <= 128 else 32

    def count(rows: int) -> int:
        return math.ceil(attention.queries / rows) * math.prod(attention.batch)

    if narrow and largest <= LARGEST_OF_TWO and count(WARPS[0] * 32) >= device.processors:
        yield Blocks(32, WARPS[0], 1, keys)
    for warps in WARPS:
        rows = 16 if narrow else 32
        if count(warps * rows) >= device.processors:
            yield Blocks(rows, warps, 1, keys)
    for warps in WARPS[:-1]:
        if attention.keys >= warps * keys:
            yield Blocks(16, warps, warps, keys // 2)
    yield Blocks(16, 1, 1, keys)
    yield Blocks(16, 1, 1, keys // 2)


def shared_bytes(attention: Attention, blocks: Blocks) -> int:
    """Dynamic shared memory: the queries, two tiles of keys and values, in fp32 the weights; or sums on their way from warp to warp."""
    head, width = _rounded(attention.head), _rounded(attention.value_head)
    size = BYTES[attention.element]
    tiles = (blocks.queries * head + 2 * blocks.splits * blocks.keys * (head + width)) * size
    weights = 0 if size < 4 else blocks.warps * blocks.rows * (blocks.keys + 4) * 4
    sums = blocks.splits * (blocks.rows * width + 2 * blocks.rows * 4) * 4 if blocks.splits > 1 else 0
    return max(tiles + weights, sums)


def _rounded(size: int) -> int:
    """Elements of a vector in shared memory: a power of two, so that chunks can be exchanged."""
    return max(32, 1 << (size - 1).bit_length())


def _tiles(attention: Attention, blocks: Blocks) -> list[tuple[str, Source, str]]:
    """Name, source and C++ type of the tiles of queries, keys and values."""
    a = attention
    threads = blocks.warps * 32
    own = 32 if blocks.splits > 1 else threads

    def matrix(rows: Rows) -> Matrix:
        return Matrix(rows.pointer, a.element, rows.row, 1, rows.steps, rows.offset)

    q = matrix_source(matrix(a.query), a.queries, a.head, a.query.row, 1, a.batch)
    k = matrix_source(matrix(a.key), a.keys, a.head, a.key.row, 1, a.batch)
    v = matrix_source(matrix(a.value), a.value_head, a.keys, 1, a.value.row, a.batch, along_k=False)
    return [
        ("Q", q, q.tile(blocks.queries, _rounded(a.head), threads)),
        ("K", k, k.tile(blocks.keys, _rounded(a.head), own)),
        ("V", v, v.tile(_rounded(a.value_head), blocks.keys, own, fragments=a.element != "float32")),
    ]


def _call(attention: Attention, blocks: Blocks) -> str:
    """The function of the library, with its sizes."""
    a = attention
    kind = f"in_fp32<{blocks.rows // 8}, "
    if a.element != "float32":
        kind = f"on_tensor_cores<lepton::Arithmetic::{'f16' if a.element == 'float16' else 'bf16'}, {blocks.rows // 16}, "
    sizes = f"{blocks.warps}, {blocks.splits}, {blocks.keys}, {_rounded(a.head)}, {_rounded(a.value_head)}, {a.head}, {a.queries}, {a.keys}"
    seen = f"{'false' if a.causal is None else 'true'}, {a.causal or 0}, lepton::Empty::{a.empty}"
    return f"lepton::attend_{kind}{sizes}, {seen}, Q, K, V>"


def _scores(attention: Attention, epilogue: Epilogue) -> list[str]:
    """The definition of `lepton_score`, what makes scores of products."""
    a, names = attention, ", ".join(epilogue.arguments)
    if not a.score and 0 < a.scale < math.inf:
        return [f"  lepton::ScaledProducts lepton_score{{{a.scale!r}f * lepton::LOG2_E}};"]
    scaled = f"lepton_product * {a.scale!r}f"
    score = f"{epilogue.symbol}_score({names}, lepton_batch, lepton_q, lepton_k, {scaled})" if a.score else scaled
    return [
        f"  auto lepton_masked = [&](int lepton_q, int lepton_k, float lepton_product) {{ return {score}; }};",
        "  lepton::Scores<decltype(lepton_masked)> lepton_score{lepton_masked};",
    ]


def _kernel(symbol: str, attention: Attention, epilogue: Epilogue, blocks: Blocks) -> str:
    a, names = attention, ", ".join(epilogue.arguments)
    per_head = math.ceil(a.queries / blocks.queries)
    vector = math.gcd(a.value_head, min(2 if a.element != "float32" else 4, 16 // epilogue.size)) if epilogue.rows else 1
    tiles = _tiles(attention, blocks)
    origins = ", ".join(f"{name}::Origin{source.value}" for name, source, _ in tiles)
    indices = "int lepton_batch, int lepton_m, int lepton_n"
    lines = [
        f'extern "C" __global__ void __launch_bounds__({blocks.warps * 32}) {symbol}({epilogue.parameters}) {{',
        f"  {AFTER_PREVIOUS}",
        *(f"  {p} = static_cast<decltype({p})>(__builtin_assume_aligned({p}, 16));" for p in epilogue.arguments),
        "  extern __shared__ __align__(1024) char lepton_tiles[];",
        f"  int lepton_batch = blockIdx.x / {per_head}, lepton_first = blockIdx.x % {per_head} * {blocks.queries};",
        *(f"  using {name} = {type};" for name, _, type in tiles),
        *_scores(attention, epilogue),
        *epilogue.value("float"),
        f"  auto lepton_place = [&]({indices}) {{ return {epilogue.symbol}_place({names}, lepton_batch, lepton_m, lepton_n); }};",
        f"  lepton::Finished<{epilogue.type}, {a.queries}, {a.value_head}, {vector}, decltype(lepton_value), decltype(lepton_place)> "
        f"lepton_store{{{epilogue.output}, lepton_batch, lepton_value, lepton_place}};",
        f"  {_call(a, blocks)}({origins}, lepton_tiles, lepton_first, lepton_score, lepton_store);",
        "}",
        "",
    ]
    return "\n".join(lines)
