"""Drawing images from a model: samples, completions, interpolations, guidance."""
