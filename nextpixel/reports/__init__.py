"""What a run has shown: figures, pictures and words."""
