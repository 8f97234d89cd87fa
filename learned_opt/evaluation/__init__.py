"""Comparing optimizers: tuned baselines, intervals, cost, and how to look at them."""
