"""What tests and benchmarks share. Imports nothing of either."""
