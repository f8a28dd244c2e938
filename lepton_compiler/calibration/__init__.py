"""What values a model meets: samples, read one at a time, and what is kept of every tensor that they make.

Memory stays bounded whatever the number of samples: one sample, the tensors of one run of the model, and per observed tensor a histogram
of `histogram.BINS` counts (64 KiB). Nothing is kept per sample.
"""

from lepton_compiler.calibration.observe import Statistics, evaluator_run, observe
from lepton_compiler.calibration.ranges import OBSERVERS, Range, choose_range, read_ranges, write_ranges
from lepton_compiler.calibration.samples import Samples, open_samples

__all__ = [
    "OBSERVERS",
    "Range",
    "Samples",
    "Statistics",
    "choose_range",
    "evaluator_run",
    "observe",
    "open_samples",
    "read_ranges",
    "write_ranges",
]
