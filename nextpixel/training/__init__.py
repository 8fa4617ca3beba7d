"""Training: objectives, the loop, its batches, checkpoints and processes, and what every kind of run shares around them."""
