"""What each optimisation level runs, in order. Backends add the passes that they require after these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lepton_compiler.errors import UsageError
from lepton_compiler.passes.canonicalize import Canonicalize
from lepton_compiler.passes.compose import Compose
from lepton_compiler.passes.cse import CSE
from lepton_compiler.passes.dce import DCE
from lepton_compiler.passes.fold_batch_norm import FoldBatchNorm
from lepton_compiler.passes.fold_constants import FoldConstants
from lepton_compiler.passes.hoist_products import HoistProducts
from lepton_compiler.passes.simplify_arithmetic import SimplifyArithmetic
from lepton_compiler.passes.simplify_casts import SimplifyCasts
from lepton_compiler.passes.simplify_pads import SimplifyPads
from lepton_compiler.passes.simplify_quantization import SimplifyQuantization
from lepton_compiler.passes.simplify_reshapes import SimplifyReshapes
from lepton_compiler.passes.simplify_slices import SimplifySlices
from lepton_compiler.passes.simplify_transposes import SimplifyTransposes
from lepton_compiler.pipeline import Pass

O0: tuple[Pass, ...] = (
    Canonicalize(),  # one form of everything: all that backends need to know
    FoldConstants(),  # shape arithmetic must be gone before sizes are fixed
    Canonicalize(),  # parameters that folding made known become attributes
    DCE(),  # nothing that nobody reads reaches a backend
)

O1: tuple[Pass, ...] = (
    Canonicalize(),  # so that layers have one form
    SimplifyQuantization(),  # before quantized weights are folded to real numbers
    *O0,
    CSE(),  # exporters repeat shape arithmetic and masks for every layer
    FoldBatchNorm(),  # the largest single gain on convolutional models, and safe
    SimplifyPads(),  # convolutions and poolings pad for free
    SimplifyCasts(),  # conversions that exporters put in to please their own type rules
    SimplifyReshapes(),  # chains of views
    FoldConstants(),  # what the rewrites made constant
    DCE(),  # what they left behind
)

O2: tuple[Pass, ...] = (
    *O1,
    Compose(),  # before arithmetic is rearranged, composite operators still have the form that exporters give them
    HoistProducts(),  # while the rows are still read by the product itself
    SimplifyArithmetic(),  # scales and shifts move into weights
    SimplifyTransposes(),  # transposes of channels-last exporters cancel before a backend chooses layouts
    SimplifySlices(),  # slices and joins of other slices and joins
    SimplifyReshapes(),  # reshapes that met when transposes went
    FoldConstants(),  # transposed weights
    Canonicalize(),  # what the rewrites left in other forms
    CSE(),  # what has become equal
    DCE(),  # and what nobody reads any more
)

O3: tuple[Pass, ...] = (
    *O2,
    Compose(),  # activations that became visible when scales moved away
    SimplifyArithmetic(),  # a second round: what composing and cancelling brought together
    SimplifyTransposes(),  # and transposes that now meet
    FoldConstants(),  # weights of the second round
    CSE(),  # what has become equal
    DCE(),  # what nobody reads any more
)

Os: tuple[Pass, ...] = tuple(replace(p, limit=1 << 12, dequantize=False) if isinstance(p, FoldConstants) else p for p in O2)
"""As O2, but constants are folded only where that does not make the model larger: quantized weights stay quantized."""

LEVELS: dict[str, tuple[Pass, ...]] = {"O0": O0, "O1": O1, "O2": O2, "O3": O3, "Os": Os}


def keeping_codes(passes: Sequence[Pass]) -> tuple[Pass, ...]:
    """The same, for a model that is quantized in part and whose rest is to be quantized: without what turns codes into other numbers."""
    kept = (step for step in passes if not isinstance(step, SimplifyQuantization))
    return tuple(replace(step, dequantize=False, small=0) if isinstance(step, FoldConstants) else step for step in kept)


def passes_for_level(level: str) -> tuple[Pass, ...]:
    """The passes of `O0`, `O1`, `O2`, `O3` or `Os`, in order.

    Raises:
        UsageError: no such level.
    """
    if level not in LEVELS:
        raise UsageError(f"no optimisation level '{level}'", hint=f"choose from {', '.join(LEVELS)}")
    return LEVELS[level]
