"""What is trained on what: experiments and their settings, the recipes (YAML) and the kinds of runs."""
