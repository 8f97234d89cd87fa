"""What the papers claim, as data, and whether it holds here, by rule, from docs/measured."""
