"""Comparing optimizers: tuned baselines, intervals, cost, tables and pictures."""
