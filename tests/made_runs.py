"""A run folder as training leaves it, with weights that have learned nothing: made in no time."""

import json

import torch

import nextpixel
from nextpixel.data.arrays import load_digits
from nextpixel.data.images import Images
from nextpixel.data.settings import DataSettings
from nextpixel.models.storage import PROGRESS
from nextpixel.recipes import Experiment
from nextpixel.scoring.baselines import PixelMarginal

LEVELS = 17


def make_run(folder, name="pixelcnn", progress=None, **options):
    """Write a run on digits, class-conditional unless `options` tell otherwise; the model."""
    torch.manual_seed(0)
    options = {"features": 8, "blocks": 2, "head_features": 8, "condition": nextpixel.Labels(10), **options}
    model = nextpixel.MODELS[name](shape=(1, 8, 8), levels=LEVELS, **options)
    data = DataSettings(source="digits", levels=LEVELS)
    folder.mkdir(parents=True)
    Experiment(model={"name": name, **options, "condition": "labels"}, data=data).save(folder / "config.yaml")
    PixelMarginal.fit(Images(load_digits(data)["all"], data)).save(folder / "marginal.npz")
    model.save(folder / "model")
    if progress is not None:
        (folder / PROGRESS).write_text(json.dumps(progress), encoding="utf-8")
    return model
