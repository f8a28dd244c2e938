"""Tuning on a GPU: kernels with other tiles, blocks and widths, measured through the driver."""
