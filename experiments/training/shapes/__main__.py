"""``python -m experiments.training.shapes``."""

from experiments.training.shapes.command import main

main()
