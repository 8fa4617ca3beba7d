"""Causal layers: each has `forward` (all places at once) and the clocks of a scan side by side."""
