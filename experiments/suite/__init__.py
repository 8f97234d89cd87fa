"""The suite: networks that no optimizer here was trained on, against rivals that are tuned."""
