"""What a run begins with and leaves behind: prompts and rows of files. Neither Hydra nor torch is loaded here."""

import csv

csv.field_size_limit(2**31 - 1)
"""A cell is as long as it is: a prompt that was drawn must be read back, and others' lists hold anything."""
