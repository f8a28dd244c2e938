"""The translation unit of a model: every kernel once, and what several of them call once."""

from __future__ import annotations

from collections.abc import Iterable

from lepton_compiler.backends.tvm.cuda import recurrent, sliding, tensor_cores
from lepton_compiler.backends.tvm.cuda.text.prelude import PRELUDE
from lepton_compiler.backends.tvm.kernels import Kernel

LIBRARY = "/* stands on the library of products */"
"""A chunk that stands for the text of `tensor_cores.library`."""
WINDOWS = "/* stands on the library of sliding windows */"
"""A chunk that stands for the text of `sliding.library`."""
LAYERS = "/* stands on the library of recurrent layers */"
"""A chunk that stands for the text of `recurrent.library`."""


def unit(kernels: Iterable[Kernel]) -> str:
    """CUDA C for all kernels, whose texts are chunks with empty lines between them."""
    chunks = [chunk.strip("\n") for kernel in kernels for chunk in kernel.object.decode().split("\n\n")]
    for name, library in ((WINDOWS, sliding.library), (LAYERS, recurrent.library), (LIBRARY, tensor_cores.library)):
        if name in chunks:
            chunks = [library().strip("\n"), *(chunk for chunk in chunks if chunk != name)]
    return "\n\n".join([PRELUDE.rstrip("\n"), *dict.fromkeys(chunk for chunk in chunks if chunk)]) + "\n"
