"""Drawing images from a model: samples, completions, interpolations, guidance, as functions over a `DrawJob`."""
