"""The passes: one file and one row of this table each. `registry` also knows the passes of installed plug-ins (`lepton.passes`)."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from lepton_compiler.errors import UsageError
from lepton_compiler.pipeline import Pass
from lepton_compiler.registry import Registry

TABLE = {
    "bound-sizes": "lepton_compiler.passes.bound_sizes:BoundSizes",
    "canonicalize": "lepton_compiler.passes.canonicalize:Canonicalize",
    "compose": "lepton_compiler.passes.compose:Compose",
    "cse": "lepton_compiler.passes.cse:CSE",
    "dce": "lepton_compiler.passes.dce:DCE",
    "fold-batch-norm": "lepton_compiler.passes.fold_batch_norm:FoldBatchNorm",
    "fold-constants": "lepton_compiler.passes.fold_constants:FoldConstants",
    "fuse": "lepton_compiler.passes.fuse:Fuse",
    "fuse-attention": "lepton_compiler.passes.fuse.attention:FuseAttention",
    "integer-layers": "lepton_compiler.backends.tvm.integer_layers:IntegerLayers",
    "hoist-invariants": "lepton_compiler.passes.hoist_invariants:HoistInvariants",
    "hoist-products": "lepton_compiler.passes.hoist_products:HoistProducts",
    "integer-products": "lepton_compiler.backends.tvm.integer_products:IntegerProducts",
    "layout": "lepton_compiler.passes.layout:Layout",
    "legalize-decompose": "lepton_compiler.passes.legalize_decompose:LegalizeDecompose",
    "legalize-native": "lepton_compiler.backends.tvm.legalize:LegalizeNative",
    "lower-precision": "lepton_compiler.passes.lower_precision:LowerPrecision",
    "merge-products": "lepton_compiler.passes.merge_products:MergeProducts",
    "patches": "lepton_compiler.backends.tvm.patches:Patches",
    "persistent-layers": "lepton_compiler.backends.tvm.cuda.recurrent.rewrite:PersistentLayers",
    "quantize": "lepton_compiler.passes.quantize:Quantize",
    "simplify-arithmetic": "lepton_compiler.passes.simplify_arithmetic:SimplifyArithmetic",
    "simplify-casts": "lepton_compiler.passes.simplify_casts:SimplifyCasts",
    "simplify-pads": "lepton_compiler.passes.simplify_pads:SimplifyPads",
    "simplify-quantization": "lepton_compiler.passes.simplify_quantization:SimplifyQuantization",
    "simplify-reshapes": "lepton_compiler.passes.simplify_reshapes:SimplifyReshapes",
    "simplify-slices": "lepton_compiler.passes.simplify_slices:SimplifySlices",
    "simplify-transposes": "lepton_compiler.passes.simplify_transposes:SimplifyTransposes",
    "split-transposed": "lepton_compiler.backends.tvm.split_transposed:SplitTransposed",
    "round-inside": "lepton_compiler.backends.tvm.round_inside:RoundInside",
    "scale-activations": "lepton_compiler.backends.tvm.scale_activations:ScaleActivations",
    "quantize-early": "lepton_compiler.backends.tvm.quantize_early:QuantizeEarly",
    "split-resize": "lepton_compiler.backends.tvm.split_resize:SplitResize",
    "tabulate": "lepton_compiler.backends.tvm.tabulate:Tabulate",
}

registry = Registry("pass", TABLE, "lepton.passes")


def load_pass_file(path: str | os.PathLike[str]) -> list[type[Pass]]:
    """Run a Python file and register every pass that it defines.

    Raises:
        UsageError: there is no such file, it does not run, or it defines no pass.
    """
    path = Path(path)
    spec = importlib.util.spec_from_file_location(f"lepton_loaded_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UsageError(f"'{path}' is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"'{path}' does not run: {type(error).__name__}: {error}") from error
    found = [x for x in vars(module).values() if isinstance(x, type) and issubclass(x, Pass) and x.__module__ == module.__name__]
    if not found:
        raise UsageError(f"'{path}' defines no pass", hint="a pass is a frozen dataclass derived from lepton_compiler.pipeline.Pass")
    for cls in found:
        registry.register(cls.name, cls)
    return found
