"""Lives of optimizees, and everything about phi: unroll, evaluation, meta-gradient, meta-training."""
