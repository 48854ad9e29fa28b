"""Exact greedy selection in pools: spread-out, far apart, covering; rows of kernels on demand."""
