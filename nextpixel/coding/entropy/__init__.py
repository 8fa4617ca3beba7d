"""From a likelihood to bytes and back: integer tables, their margins, the range coder."""
