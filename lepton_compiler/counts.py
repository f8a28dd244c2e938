"""Counting the instructions of a model that was compiled for another machine, kernel by kernel, in the emulator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lepton_compiler.feeds import random_feeds


def count_model(
    source: Any,
    given: Mapping[str, np.ndarray],
    target: str,
    *,
    cpu: str | None = None,
    level: int | str = 2,
    inputs: Mapping[str, Any] | None = None,
    dims: Mapping[str, int] | None = None,
    stage: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Compile a model for `target` and run it once in the emulator.

    Args:
        source: a model.
        given: inputs by name; random ones for those that are missing.
        target: with `cpu`, `level`, `inputs`, `dims`: as `lepton_compiler.compile` takes them.
        stage: called with the name of each stage as it begins.

    Returns:
        `{"target", "instructions", "peak_stack_bytes", "arena_bytes", "kernels": [{symbol, sources, outputs, macs, instructions}]}`, with
        `flash_bytes`, `stack_bytes` and `arena_lower_bound` where the manifest has them.
    """
    from lepton_compiler import driver

    stage("compile")
    shapes = {**{name: array.shape for name, array in given.items()}, **(inputs or {})}
    graph = driver.import_model(source, shapes, dims)
    model = driver.compile(graph, target, level, cpu=cpu)
    stage("emulate")
    _, stats = model.emulate(random_feeds(graph.inputs, fixed=given))
    rows = {row["symbol"]: row for row in model.manifest["calls"]}
    kernels = [
        {key: rows[call.symbol][key] for key in ("symbol", "sources", "outputs", "macs")} | {"instructions": call.instructions}
        for call in stats.calls
    ]
    sizes = {
        key: model.manifest[key] for key in ("arena_bytes", "arena_lower_bound", "flash_bytes", "stack_bytes") if key in model.manifest
    }
    return {
        "target": target,
        "instructions": stats.instructions,
        "peak_stack_bytes": stats.peak_stack_bytes,
        **sizes,
        "kernels": kernels,
    }
