"""Random graphs, compiled for a GPU and run in the emulator: what rounding does not explain is a fault."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.testing.generate import random_case
from lepton_compiler.testing.rounding import ensemble, explained

STEPS = 12


def run_all(make, gpu, seeds):
    """Run graphs and compare; gives how many there are kernels for."""
    ran = 0
    for seed in seeds:
        case = random_case(seed, STEPS)
        try:
            model = make(case.graph.copy(), level=3)
        except UnsupportedError:
            continue
        with np.errstate(all="ignore"):
            found = model.run(case.feeds)
            assert not gpu.faults, seed
            assert not explained(case.graph, case.feeds, ensemble(case.graph, case.feeds), found), seed
        ran += 1
    return ran


@pytest.mark.parametrize("first", range(0, 12, 3))
def test_random_graphs(make, gpu, first):
    assert run_all(make, gpu, range(first, first + 3))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(12, 100, 8))
def test_more_random_graphs(make, gpu, first):
    assert run_all(make, gpu, range(first, first + 8))
