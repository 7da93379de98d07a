"""What the lake costs and what it saves, measured: `python -m benchmarks.reader`, or `make bench`."""
