"""Matrix products and convolutions: tiles of the result in registers, tiles of the operands in shared memory."""
