"""The laboratory's command line on a tiny pipeline, for tests that run it."""

from tests.lab import lab, pipeline_folder

__all__ = ["lab", "pipeline_folder"]
