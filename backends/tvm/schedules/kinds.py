"""Names under which compute definitions ask for a schedule template: block annotations of the TensorIR."""

from __future__ import annotations

KIND = "lepton.kind"

TILE = "tile"
"""Matrix-multiplication-like: spatial axes (outer..., pixel, block, lane), then reduction axes."""

DEPTHWISE = "depthwise"
"""Spatial axes (outer..., pixel, channel), vectorised over the channels of both operands; then reduction axes."""

ROWS_INSIDE = "lepton.rows_inside"
"""[i, r, stride, dilation, pad, extent]: the update does nothing unless 0 <= i * stride + r * dilation - pad < extent."""

COPY = "lepton.copy"
"""The block copies a register tile, without arithmetic."""
TRIPS = "lepton.trips"
"""Annotation of a loop whose extent data decide: about how many iterations it has."""
