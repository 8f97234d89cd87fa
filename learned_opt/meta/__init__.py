"""Meta-training: everything about phi, the weights of a learned optimizer."""
