"""Names under which compute definitions ask for a schedule template: block annotations of the TensorIR."""

from __future__ import annotations

KIND = "lepton.kind"

TILE = "tile"
"""Matrix-multiplication-like: spatial axes (outer..., pixel, block, lane), then reduction axes."""

ROWS = "rows"
"""A reduction over the last axes whose result is small; its consumers share its outer loops."""
