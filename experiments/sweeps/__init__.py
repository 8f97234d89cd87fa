"""The parts of `experiments.sweep`: plan, programs, claims, folders, running, results, tables."""
