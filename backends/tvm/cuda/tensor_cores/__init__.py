"""Matrix products and convolutions for GPUs: CUDA C on tensor cores, or in fp32 on the ordinary cores."""

from lepton_compiler.backends.tvm.cuda.tensor_cores.attention import Attention, Rows, generate_attention
from lepton_compiler.backends.tvm.cuda.tensor_cores.device import DEVICES, Device, device_of
from lepton_compiler.backends.tvm.cuda.tensor_cores.generate import alternatives, generate, pack_weights, packed_depth, shape_of
from lepton_compiler.backends.tvm.cuda.tensor_cores.library import library
from lepton_compiler.backends.tvm.cuda.tensor_cores.problem import (
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
from lepton_compiler.backends.tvm.cuda.tensor_cores.tiles import Shape, Tiling, possible, ranked

__all__ = [
    "DEVICES",
    "Arithmetic",
    "Attention",
    "Codes",
    "Convolution",
    "Device",
    "Element",
    "Epilogue",
    "Gemm",
    "Launch",
    "Matrix",
    "Plan",
    "Rows",
    "Shape",
    "Tiling",
    "alternatives",
    "device_of",
    "generate",
    "generate_attention",
    "library",
    "pack_weights",
    "packed_depth",
    "possible",
    "ranked",
    "shape_of",
    "vector_of",
]
