"""From the stages of a kernel to CUDA C: one generator for each way to spread work over threads."""
