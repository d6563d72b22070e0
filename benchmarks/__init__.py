"""`python -m benchmarks`: what a governed call costs. See docs/benchmarks.md."""
