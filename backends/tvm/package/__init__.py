"""From a program to files: header, C source, weights, and what the system's or zig's compiler makes of them."""
