"""What was measured, a JSON file for each figure, and the tables of README and docs that are written from these files."""
