"""Tuning: candidates around the analytic choice of each kernel, measured on the machine that will run it."""
