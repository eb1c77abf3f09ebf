"""The laboratory: sweeps, their runs, reports, benchmarks and the training of the embedded
models."""
