"""What learned optimizers cost, in time and in memory, measured side by side with what they would replace."""
