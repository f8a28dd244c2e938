"""One kernel as CUDA C: what the worker process does for this backend."""

from __future__ import annotations

from tvm import tirx

from lepton_compiler.backends.tvm.cuda.generate.function import KernelText, weights_among
from lepton_compiler.backends.tvm.cuda.generate.kernel import generate
from lepton_compiler.backends.tvm.cuda.products.anchors import Anchor, find_anchor
from lepton_compiler.backends.tvm.cuda.products.attention import attention_kernel
from lepton_compiler.backends.tvm.cuda.products.chosen import tile_of
from lepton_compiler.backends.tvm.cuda.products.generated import arithmetic_of, generated_product, generated_types
from lepton_compiler.backends.tvm.cuda.products.tiled import tiled_product
from lepton_compiler.backends.tvm.cuda.recurrent.arrangement import arrange
from lepton_compiler.backends.tvm.cuda.recurrent.kernel import layer_kernel, problem_of_spec, steps_of
from lepton_compiler.backends.tvm.cuda.rules import RULES
from lepton_compiler.backends.tvm.cuda.sliding.kernel import windows_kernel
from lepton_compiler.backends.tvm.cuda.sliding.layer import Layer, find_layer
from lepton_compiler.backends.tvm.cuda.unit import LAYERS
from lepton_compiler.backends.tvm.kernels import Kernel, KernelParameter, PackedWeight
from lepton_compiler.backends.tvm.lower import lower
from lepton_compiler.backends.tvm.lower.procedure import parallel_from
from lepton_compiler.backends.tvm.lower.scalar import native_functions
from lepton_compiler.backends.tvm.spec import KernelSpec, Step
from lepton_compiler.backends.tvm.worker import symbol_of
from lepton_compiler.errors import UnsupportedError
from lepton_compiler.target import Target


def compile_spec(key: str, spec: KernelSpec, target: Target) -> Kernel:
    """Lower one kernel and write its text.

    Raises:
        LeptonError: a rule refuses the form of its operator, or something has no text.
    """
    symbol, where = symbol_of(spec, target), f"kernel {spec.label}"
    if (steps := steps_of(spec)) is not None:
        return _layer(steps, spec, target, symbol, where)
    with native_functions(), parallel_from(1):
        layer = find_layer(spec)
        anchor = None if spec.kind or layer is not None else find_anchor(spec, generated_types(target.gpus))
        if layer is not None:
            text, parameters = _windows(layer, spec, target, symbol, where)
        elif spec.kind == "attention":
            text, parameters = attention_kernel(spec, target.gpus, symbol, where)
        elif anchor is not None:
            text, parameters = _product(anchor, spec, target, symbol, where)
        else:
            text, parameters = _from_stages(spec, target, symbol, where)
    parameters += [KernelParameter("workspace", len(parameters) + k, kind) for k, kind in enumerate(text.spaces)]
    return Kernel(symbol, text.text.encode(), tuple(parameters), (), tuple(text.launches), tuple(text.notes))


def _layer(steps: Step, spec: KernelSpec, target: Target, symbol: str, where: str) -> Kernel:
    """The kernel of all steps of a recurrent layer."""
    arrangement = arrange(problem_of_spec(spec, steps), target.gpus)
    if arrangement is None:
        raise UnsupportedError(f"{where}: the weights do not fit the multiprocessors that are sure to be there", hint="report the model")
    made = layer_kernel(symbol, spec, steps, arrangement)
    kinds = [*(("input", k, t) for k, t in enumerate(spec.types[: spec.inputs]))]
    kinds += [("output", k, spec.types[n]) for k, n in enumerate(spec.outputs)]
    kinds += [("workspace", len(kinds) + k, t) for k, t in enumerate(made.spaces)]
    parameters = tuple(KernelParameter(kind, index, t) for kind, index, t in kinds)
    return Kernel(symbol, f"{LAYERS}\n\n{made.text}".encode(), parameters, (), (made.launch,))


def _windows(layer: Layer, spec: KernelSpec, target: Target, symbol: str, where: str) -> tuple[KernelText, list[KernelParameter]]:
    """The kernel of a depthwise convolution or a pool."""
    text = KernelText(symbol, where, list(layer.buffers), True, spec.choice, weights_among(layer.parameters, spec.constants))
    windows_kernel(text, layer, target.gpus)
    return text, list(layer.parameters)


def _product(anchor: Anchor, spec: KernelSpec, target: Target, symbol: str, where: str) -> tuple[KernelText, list[KernelParameter]]:
    """The kernel of a matrix product or a convolution, in tiles."""
    text = KernelText(symbol, where, list(anchor.buffers), True, spec.choice, weights_among(anchor.parameters, spec.constants))
    if anchor.product.problem is not None:
        generated_product(text, anchor, arithmetic_of(anchor, target.extensions, target.gpus), target.gpus)
        return text, anchor.parameters
    tile, product, partial = tile_of(spec.choice, anchor.product, target.gpus), anchor.product, None
    if tile.parts > 1:
        partial = tirx.decl_buffer((tile.parts, product.batch * product.rows * product.columns), "float32", "partial", layout=None)
        text.space(partial)
    tiled_product(text, product, tile, anchor.output, partial)
    return text, anchor.parameters


def _from_stages(spec: KernelSpec, target: Target, symbol: str, where: str) -> tuple[KernelText, list[KernelParameter]]:
    """Any other kernel, from its stages."""
    lowered = lower(spec, target, RULES)
    if any(p.kind == "scratch" for p in lowered.parameters):
        raise UnsupportedError(f"{spec.label}: memory of each thread's own is not there on a GPU", hint="report the model")
    parameters = [
        KernelParameter(p.kind, p.index, p.type, PackedWeight(p.packed.function, p.packed.arguments) if p.packed else None, p.table)
        for p in lowered.parameters
    ]
    return generate(lowered.function, symbol, where, spec.choice, weights_among(parameters, spec.constants)), parameters
