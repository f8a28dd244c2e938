"""Whether a model can keep the states that the user names."""

from __future__ import annotations

from collections.abc import Mapping

from lepton_compiler.analysis.scales import scales_of
from lepton_compiler.backend import Emit
from lepton_compiler.errors import UsageError
from lepton_compiler.identity import FOLDER_KINDS
from lepton_compiler.ir.graph import Graph
from lepton_compiler.states import States


def check_states(states: States, graphs: Mapping[tuple[int, ...], Graph], emit: Emit = "lib") -> None:
    """Refuse states that the model cannot have, or that this kind of output cannot keep.

    Args:
        states: as the user says.
        graphs: the imported model for each choice of sizes; none where its sizes are open.
        emit: the kind of output.

    Raises:
        UsageError: see `States.check`; or sizes that are not known.
    """
    if not states:
        return
    if emit not in FOLDER_KINDS:
        raise UsageError(f"--emit {emit} keeps no states", hint="native code and C do")
    if set(graphs) != {()} or graphs[()].free_symbols:
        raise UsageError("a model with states has one size of every dimension", hint="bind them: --input, --dim, inputs={...}")
    states.check(graphs[()], scales_of(graphs[()]))
