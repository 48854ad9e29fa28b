"""Accuracy with intervals, interleaved timing, analytic cost, and the comparison of methods."""
