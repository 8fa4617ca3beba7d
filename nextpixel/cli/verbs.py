"""The verbs of the command line, and what each is for."""

VERBS = {
    "train": "train a model from a recipe or a config file",
    "report": "evaluate a run's best weights so far and write its report",
    "evaluate": "nats per image and bits/dim of a data set, beside the honest baselines",
    "sample": "draw images",
    "complete": "draw the unknown part of images",
    "interpolate": "draw images that change from one condition to another",
    "inspect": "measure and draw what a pixel depends on (receptive field, blind spot)",
    "compress": "images to a lossless archive, by the model's likelihood",
    "decompress": "an archive back to its images",
    "info": "what an archive holds and how it was made",
    "recipes": "list the recipes",
    "bench": "measure speed on this machine: sampling and training beside what the arithmetic would allow",
}
