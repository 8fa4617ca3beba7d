"""Training: settings, objectives, the loop, its checkpoints and processes, and one run from data to report."""
