"""CUDA C for products: one kernel, or two where blocks share sums and are no cluster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lepton_compiler.backends.tvm.cuda.tensor_cores.device import Device
from lepton_compiler.backends.tvm.cuda.tensor_cores.problem import (
    BYTES,
    Arithmetic,
    Codes,
    Convolution,
    Element,
    Epilogue,
    Gemm,
    Launch,
    Matrix,
    Plan,
    vector_of,
)
from lepton_compiler.backends.tvm.cuda.tensor_cores.sources import WORD, Source, matrix_source, windows_source
from lepton_compiler.backends.tvm.cuda.tensor_cores.tiles import Shape, Tiling, choose, padding, possible, ranked, seconds, shared_bytes
from lepton_compiler.backends.tvm.cuda.text.order import AFTER_PREVIOUS

FINISH_THREADS = 256
FIRST_WITH_CLUSTERS = 90
"""Compute capability from which on blocks can be clusters."""

Sharing = Literal["none", "workspace", "cluster", "either"]
"""How blocks finish the sums that they share: in a second kernel, in their cluster, or as the architecture lets them."""


@dataclass(frozen=True)
class Product:
    """A problem made of two sources; what else the epilogue's helpers have."""

    shape: Shape
    a: Source
    b: Source
    kind: str
    sum: str
    zero_a: bool = False
    zero_b: bool = False
    filled: bool = False


def generate(symbol: str, problem: Gemm | Convolution, epilogue: Epilogue, device: Device, tiling: Tiling | None = None) -> Plan:
    """Kernels for a problem; their names begin with `symbol`.

    Args:
        tiling: instead of the one that the model of the device finds best.
    """
    product = gemm_product(problem) if isinstance(problem, Gemm) else convolution_product(problem, symbol)
    chosen = choose(product.shape, device)[0] if tiling is None else tiling
    sharing = _sharing(chosen, device)
    split = sharing in ("workspace", "either")
    texts = [product.a.declarations, product.b.declarations, epilogue.helpers, _main(symbol, product, chosen, epilogue, sharing)]
    shape = product.shape
    arguments = (*epilogue.arguments, "workspace") if split else epilogue.arguments
    tiles = math.ceil(shape.m / chosen.block_m) * math.ceil(shape.n / chosen.block_n)
    shared = shared_bytes(shape, chosen)
    launches = [Launch(symbol, (tiles * shape.batch, chosen.splits, 1), (chosen.threads, 1, 1), arguments, shared)]
    if split:
        vector = _power(shape.n, 4)
        blocks = math.ceil(shape.m * shape.n / (vector * FINISH_THREADS))
        texts.append(_finish(symbol, product, chosen, epilogue, vector))
        before = FIRST_WITH_CLUSTERS if sharing == "either" else 0
        launches.append(Launch(f"{symbol}_finish", (blocks, shape.batch, 1), (FINISH_THREADS, 1, 1), arguments, before=before))
    workspace = chosen.splits * shape.batch * shape.m * shape.n * 4 if split else 0
    return Plan("\n".join(text for text in texts if text), tuple(launches), workspace, seconds(product.shape, chosen, device))


def _sharing(tiling: Tiling, device: Device) -> Sharing:
    if tiling.splits == 1:
        return "none"
    if not tiling.clustered:
        return "workspace"
    return "cluster" if device.clusters == "all" else "either"


def shape_of(symbol: str, problem: Gemm | Convolution) -> Shape:
    """What the choice of tiles for a problem depends on."""
    return (gemm_product(problem) if isinstance(problem, Gemm) else convolution_product(problem, symbol)).shape


def alternatives(shape: Shape, device: Device, devices: Sequence[Device], count: int) -> list[Tiling]:
    """The tilings that the model finds best, best first, and the best one with other numbers of stages: what is worth measuring."""
    best = ranked(shape, device, devices)[:count]
    staged = [t for t in possible(shape, device) if replace(t, stages=best[0].stages) == best[0] and t not in best]
    return best + staged


def gemm_product(gemm: Gemm) -> Product:
    """The sources of a matrix product."""
    a = matrix_source(gemm.a, gemm.m, gemm.a.depth or gemm.k, gemm.a.row, gemm.a.column, gemm.batch)
    b = matrix_source(gemm.b, gemm.n, gemm.b.depth or gemm.k, gemm.b.column, gemm.b.row, gemm.batch)
    batch, size = math.prod(gemm.batch), BYTES[gemm.a.element]
    once = [math.prod(c for c, s in zip(gemm.batch, m.batch, strict=True) if s) for m in (gemm.a, gemm.b)]
    rows = once[0] * gemm.m * size + once[1] * gemm.n * _bits(gemm.b.element, gemm.b.codes) // 8
    moved = rows * gemm.k + batch * gemm.m * gemm.n * size
    groupable = _groupable(gemm, a, b)
    shape = Shape(batch, gemm.m, gemm.n, gemm.k, gemm.arithmetic, size, moved, a.along_k, groupable)
    return Product(shape, a, b, *_arithmetic(gemm.arithmetic, gemm.a.element, gemm.b.element), gemm.zero_a, gemm.zero_b)


def convolution_product(conv: Convolution, symbol: str) -> Product:
    """The sources of a convolution: windows x weights where channels come last, weights x windows where they come first."""
    outs, pixels = conv.out_channels // conv.groups, conv.out_height * conv.out_width
    windows, size, depth = _as_matrix(conv) or windows_source(conv, symbol), BYTES[conv.element], conv.depth
    moved = size * conv.images * (conv.channels * conv.height * conv.width + conv.out_channels * pixels)
    moved += conv.out_channels * depth * _bits(conv.weight_element, conv.codes) // 8
    extra = conv.zero_a, conv.zero_b, conv.filled
    if conv.channels_last:
        padded = packed_depth(conv)
        weights = Matrix(conv.weight, conv.weight_element, 1, padded, (outs * padded,), codes=conv.codes)
        b = matrix_source(weights, outs, depth if padded == depth else padded, padded, 1, (conv.groups,))
        shape = Shape(conv.groups, conv.images * pixels, outs, depth, conv.arithmetic, size, moved, groupable=_groupable(conv, windows, b))
        return Product(shape, windows, b, *_arithmetic(conv.arithmetic, conv.element, conv.weight_element), *extra)
    batch = (conv.images, conv.groups)
    padded = packed_depth(conv)
    weights = Matrix(conv.weight, conv.weight_element, padded, 1, (0, outs * padded), codes=conv.codes)
    a = matrix_source(weights, outs, padded, padded, 1, batch)
    shape = Shape(math.prod(batch), outs, pixels, depth, conv.arithmetic, size, moved, a.along_k)
    return Product(shape, a, windows, *_arithmetic(conv.arithmetic, conv.weight_element, conv.element), *extra)


def _bits(element: Element, codes: Codes | None) -> int:
    """Of an element as it is stored."""
    return BYTES[element] * 8 if codes is None else codes.bits


def _groupable(problem: Gemm | Convolution, a: Source, b: Source) -> bool:
    exact = problem.arithmetic == "int8" and not (problem.zero_a or problem.zero_b)
    element = problem.a.element if isinstance(problem, Gemm) else problem.element
    sound = all(source.along_k and (source.tile_type or source.vector * BYTES[element] >= WORD) for source in (a, b))
    return (exact or problem.arithmetic in ("float16", "bfloat16")) and sound


def _as_matrix(conv: Convolution) -> Source | None:
    """The input where windows are single pixels, next to each other: a plain matrix, of pixels by channels or of channels by the pixels of an image."""
    if conv.kernel != (1, 1) or conv.strides != (1, 1) or any(conv.pads):
        return None
    own, pixels = conv.channels // conv.groups, conv.height * conv.width
    if conv.channels_last:
        rows = Matrix(conv.image, conv.element, conv.channels, 1, (own,))
        return matrix_source(rows, conv.images * pixels, own, conv.channels, 1, (conv.groups,))
    image = Matrix(conv.image, conv.element, pixels, 1, (conv.channels * pixels, own * pixels))
    return matrix_source(image, pixels, own, 1, pixels, (conv.images, conv.groups))


def packed_depth(conv: Convolution) -> int:
    """Elements of a packed row of weights: the depth rounded up to 16 bytes."""
    unit = 16 // BYTES[conv.weight_element] if conv.codes is None else 128 // conv.codes.bits
    return math.ceil(conv.depth / unit) * unit


def pack_weights(conv: Convolution, weights: np.ndarray) -> np.ndarray:
    """Weights [out channels, channels of a group, kernel rows, kernel columns] as kernels read them: [out channels, packed depth]."""
    order = (0, 2, 3, 1) if conv.channels_last else (0, 1, 2, 3)
    rows = weights.transpose(order).reshape(conv.out_channels, conv.depth)
    packed = np.zeros((conv.out_channels, packed_depth(conv)), weights.dtype)
    packed[:, : conv.depth] = rows
    return packed


def _arithmetic(arithmetic: Arithmetic, a: Element, b: Element) -> tuple[str, str]:
    """The library's name of what tensor cores do, and the type of sums."""
    match arithmetic:
        case "int8":
            return "_".join("u8" if e == "uint8" else "s8" for e in (a, b)), "int"
        case "float32":
            return "", "float"
        case _:
            return {"float16": "f16", "bfloat16": "bf16", "tf32": "tf32"}[arithmetic], "float"


def _main(symbol: str, product: Product, tiling: Tiling, epilogue: Epilogue, sharing: Sharing) -> str:
    """The kernel, which waits for the one before it with its first tiles, or before it reads what lies outside of an image."""
    shape = product.shape
    tiles_m, tiles_n = math.ceil(shape.m / tiling.block_m), math.ceil(shape.n / tiling.block_n)
    workspace = f"{product.sum} *__restrict__ workspace" if sharing in ("workspace", "either") else ""
    lines = [
        *_opening(symbol, epilogue, _attributes(product, tiling, sharing), workspace),
        *([f"  {AFTER_PREVIOUS}"] if product.filled and not epilogue.known_fill else []),
        "  extern __shared__ __align__(1024) char lepton_tiles[];",
        f"  int lepton_batch = blockIdx.x / {tiles_m * tiles_n};",
        f"  lepton::Position lepton_at = lepton::position<{tiles_m}, {tiles_n}>(blockIdx.x % {tiles_m * tiles_n});",
        f"  int lepton_first = blockIdx.y * {tiling.split_depth}, lepton_end = lepton_first + {tiling.split_depth};",
        f"  lepton_end = lepton_end < {shape.k} ? lepton_end : {shape.k};",
        *_store(product, tiling, epilogue, sharing),
        *_integers(product, epilogue),
        f"  using A = {product.a.tile(tiling.block_m, tiling.depth, tiling.threads, epilogue.weights, bool(product.kind))};",
        f"  using B = {product.b.tile(tiling.block_n, tiling.depth, tiling.threads, epilogue.weights, bool(product.kind))};",
        f"  A lepton_a(A::Origin{product.a.value}, lepton_at.m * {tiling.block_m}, threadIdx.x);",
        f"  B lepton_b(B::Origin{product.b.value}, lepton_at.n * {tiling.block_n}, threadIdx.x);",
        *_calls(product, tiling),
        *_ending(product, tiling, epilogue, sharing),
        "}",
        "",
    ]
    return "\n".join(lines)


def _attributes(product: Product, tiling: Tiling, sharing: Sharing) -> str:
    """Of a kernel: its threads, how many blocks a multiprocessor shall hold, and its cluster; on ordinary cores 64 sums of a lane leave room for two
    blocks of 256 threads.
    """
    two = not product.kind and tiling.threads == 256 and tiling.warp_m * tiling.warp_n <= 64 * 32
    bounds = f"__launch_bounds__({tiling.threads}{', 2' if two else ''})"
    names: dict[Sharing, str] = {"cluster": "__cluster_dims__", "either": "LEPTON_CLUSTER"}
    return f"{names[sharing]}(1, {tiling.splits}, 1) {bounds}" if sharing in names else bounds


def _calls(product: Product, tiling: Tiling) -> list[str]:
    """The call of the library; of the one or the other, where groups of warps multiply if the architecture lets them."""
    place = f"lepton_at.m * {tiling.block_m}, lepton_at.n * {tiling.block_n}"
    zeros = ", lepton_zeros" if product.zero_a or product.zero_b else ""
    arguments = f"(lepton_a, lepton_b, lepton_tiles, {place}, lepton_first, lepton_end, lepton_store{zeros});"
    sizes, pipeline = f"{tiling.block_m}, {tiling.block_n}", f"{tiling.stages}, {tiling.depth}"
    if not product.kind:
        return [f"  lepton::multiply_in_fp32<{sizes}, {tiling.warp_m // 8}, {tiling.warp_n // 4}, {pipeline}>{arguments}"]
    steps = tiling.depth * product.shape.size // 32
    kind = f"lepton::Arithmetic::{product.kind}, {product.sum}"
    warps = f"  lepton::multiply_on_tensor_cores<{kind}, {sizes}, {tiling.warp_m}, {tiling.warp_n}, {steps}, {pipeline}>{arguments}"
    if not tiling.groups:
        return [warps]
    groups = f"  lepton::multiply_on_warpgroups<{kind}, {sizes}, {tiling.threads // 128}, {pipeline}>{arguments}"
    return ["#ifdef LEPTON_WARPGROUPS", groups, "#else", warps, "#endif"]


def _opening(symbol: str, epilogue: Epilogue, attributes: str, workspace: str) -> list[str]:
    """The head of a kernel. Its pointers stay what they are: of what else is made of them the compiler does not see that nothing writes there.

    Args:
        workspace: the parameter that points to one; empty where there is none.
    """
    formals = ", ".join([epilogue.parameters, *([workspace] if workspace else [])])
    return [f'extern "C" __global__ void {attributes} {symbol}({formals}) {{']


def _store(product: Product, tiling: Tiling, epilogue: Epilogue, sharing: Sharing) -> list[str]:
    """The definition of `store`, what takes the sums."""
    shape = product.shape
    if sharing == "none":
        return _finished(product, epilogue, vector_of(shape.n, epilogue.size) if epilogue.rows else 1)
    base = f"workspace + (static_cast<long long>(blockIdx.y) * {shape.batch} + lepton_batch) * {shape.m * shape.n}LL"
    unfinished = f"  lepton::Unfinished<{product.sum}, {shape.m}, {shape.n}, {_power(shape.n, 4)}> lepton_store{{{base}}};"
    if sharing == "workspace":
        return [unfinished]
    place = f"reinterpret_cast<{product.sum} *>(lepton_tiles), lepton_at.m * {tiling.block_m}, lepton_at.n * {tiling.block_n}"
    gathered = f"  lepton::Gathered<{product.sum}, {tiling.block_m}, {tiling.block_n}, {padding(shape)}> lepton_store{{{place}}};"
    return [gathered] if sharing == "cluster" else ["#ifdef LEPTON_CLUSTERS", gathered, "#else", unfinished, "#endif"]


def _ending(product: Product, tiling: Tiling, epilogue: Epilogue, sharing: Sharing) -> list[str]:
    """What a cluster does when each of its blocks has its part of the sums."""
    if sharing in ("none", "workspace"):
        return []
    sizes = f"{product.shape.m}, {product.shape.n}, {tiling.splits}, {tiling.threads}"
    lines = [
        *_finished(product, epilogue, _power(product.shape.n, min(4, 16 // epilogue.size)) if epilogue.rows else 1, "lepton_finished"),
        f"  lepton::finish_in_cluster<{sizes}>(lepton_store, lepton_finished);",
    ]
    return lines if sharing == "cluster" else ["#ifdef LEPTON_CLUSTERS", *lines, "#endif"]


def _finished(product: Product, epilogue: Epilogue, vector: int, name: str = "lepton_store") -> list[str]:
    names = ", ".join(epilogue.arguments)
    sizes = f"{epilogue.type}, {product.shape.m}, {product.shape.n}, {vector}"
    return [
        *epilogue.value(product.sum),
        f"  auto lepton_place = [&](int lepton_batch, int lepton_m, int lepton_n) {{ return {epilogue.symbol}_place({names}, lepton_batch, lepton_m, lepton_n); }};",
        f"  lepton::Finished<{sizes}, decltype(lepton_value), decltype(lepton_place)> {name}{{{epilogue.output}, lepton_batch, lepton_value, lepton_place}};",
    ]


def _integers(product: Product, epilogue: Epilogue) -> list[str]:
    """The definitions of `fill`, what lies outside of an image, and of `zeros`, the zero points that are taken off, where there are such."""
    names, symbol = ", ".join(epilogue.arguments), epilogue.symbol
    lines = []
    if product.filled:
        lines.append(f"  unsigned lepton_fill = ({symbol}_fill({names}, lepton_batch, 0, 0) & 0xFF) * 0x01010101u;")
    if product.zero_a or product.zero_b:
        m, n = (f"lepton_{i} < {size} ? lepton_{i} : {size - 1}" for i, size in (("m", product.shape.m), ("n", product.shape.n)))
        a = f"{symbol}_zero_a({names}, lepton_batch, {m}, 0)" if product.zero_a else "0"
        b = f"{symbol}_zero_b({names}, lepton_batch, 0, {n})" if product.zero_b else "0"
        flags = ", ".join("true" if z else "false" for z in (product.zero_a, product.zero_b))
        lines += [
            f"  auto lepton_zero_a = [&](int lepton_m) {{ return {a}; }};",
            f"  auto lepton_zero_b = [&](int lepton_n) {{ return {b}; }};",
            f"  lepton::Zeros<{flags}, decltype(lepton_zero_a), decltype(lepton_zero_b)> lepton_zeros{{lepton_zero_a, lepton_zero_b}};",
        ]
    return lines


def _finish(symbol: str, product: Product, tiling: Tiling, epilogue: Epilogue, vector: int) -> str:
    shape = product.shape
    sizes = f"{product.sum}, {shape.batch}, {shape.m}, {shape.n}, {tiling.splits}, {vector}"
    lines = [
        *_opening(f"{symbol}_finish", epilogue, f"__launch_bounds__({FINISH_THREADS})", f"const {product.sum} *workspace"),
        f"  {AFTER_PREVIOUS}",
        "  int lepton_batch = blockIdx.y;",
        *_finished(product, epilogue, min(vector, 16 // epilogue.size) if epilogue.rows else 1),
        f"  lepton::finish<{sizes}>(workspace, lepton_store, lepton_batch);",
        "}",
        "",
    ]
    return "\n".join(lines)


def _power(number: int, most: int) -> int:
    """The greatest power of two that divides both."""
    return math.gcd(number, most)
