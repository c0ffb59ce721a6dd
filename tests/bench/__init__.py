"""Side-by-side measurements: `make bench-…`; the figures stand in docs/BENCHMARKS.md."""
