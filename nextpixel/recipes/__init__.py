"""Experiments with the papers' settings noted, as YAML; `nextpixel recipes` lists them."""
