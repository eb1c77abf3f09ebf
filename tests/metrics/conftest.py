"""The laboratory's fixtures, for metrics run by it."""

from tests.lab.conftest import lab, pipeline_folder

__all__ = ["lab", "pipeline_folder"]
