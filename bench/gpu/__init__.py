"""The parts of `python -m bench.cuda`: what is compiled where there need be no GPU, and what is measured where there is one."""
