"""One file for each published attack."""
