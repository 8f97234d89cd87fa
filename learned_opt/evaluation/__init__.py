"""Measuring optimizers: fresh problems, tuned baselines, intervals, cost, and how to look at them."""
