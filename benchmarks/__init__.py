"""What learned optimizers cost in time and in memory, beside what they would replace."""
