"""Everything about phi: the unroll, the meta-gradient, meta-training."""
