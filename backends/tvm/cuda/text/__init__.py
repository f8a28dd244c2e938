"""TIR as CUDA C: what `backends/tvm/c99` prints for any machine, with the functions, indices and loops that a GPU wants."""
