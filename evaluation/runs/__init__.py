"""What a run begins with and leaves behind: prompts and rows of files. Neither Hydra nor torch is
loaded here."""
