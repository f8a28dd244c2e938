"""Quantization as a stage: calibration, the pass `quantize`, corrections, a search for the layers that must stay, a report."""

from lepton_compiler.quantization.partly import quantized_nodes
from lepton_compiler.quantization.recipe import Recipe, parse_drop, parse_recipe
from lepton_compiler.quantization.report import LayerRow, Report
from lepton_compiler.quantization.stage import Quantized, Request, quantize

__all__ = ["LayerRow", "Quantized", "Recipe", "Report", "Request", "parse_drop", "parse_recipe", "quantize", "quantized_nodes"]
