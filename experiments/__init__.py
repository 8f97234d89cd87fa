"""The papers' experiments as programs: `python -m experiments.NAME --help`."""
