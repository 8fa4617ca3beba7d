"""Draws the gallery of the bundled models, docs/gallery.md: `make gallery`."""

from pathlib import Path

import torch

import nextpixel
from nextpixel.bundled import Facts, facts, list_models
from nextpixel.conditions import default_cond, encoder_of, sees_known
from nextpixel.data.masks import Masks, draw_mask
from nextpixel.models import AutoregressiveModel
from nextpixel.pictures.grid import save_completions, save_grid

DOCS = Path(__file__).parent.parent / "docs"
SAMPLES, COMPLETED, DRAWN, SEED = 64, 8, 4, 1
HEAD = """# Gallery

64 samples and 8 completions of each model in the package (`nextpixel models`), made by `make gallery`: temperature 1, one seed,
nothing chosen by hand. What is completed are samples of the model itself; blue is unknown.
"""


def main() -> None:
    """Write the page and its pictures."""
    parts = [HEAD]
    for name in list_models():
        model = nextpixel.load(name)
        if encoder_of(model.condition) is None:
            draw(name, model)
            parts.append(section(facts(name), model))
    (DOCS / "gallery.md").write_text("\n".join(parts), encoding="utf-8")
    print(DOCS / "gallery.md")


def draw(name: str, model: AutoregressiveModel) -> None:
    """Two pictures of a model."""
    x = model.sample(SAMPLES, default_cond(model, SAMPLES), seed=SEED)
    save_grid(x, model.levels, DOCS / "images" / f"gallery-{name}.png", columns=16)
    originals = model.sample(COMPLETED, default_cond(model, COMPLETED), seed=SEED + 1)
    y = model.complete(originals, known(model), n=DRAWN, cond=default_cond(model, COMPLETED), seed=SEED)
    path = DOCS / "images" / f"gallery-{name}-completions.png"
    save_completions(originals, known(model), y.unflatten(0, (COMPLETED, DRAWN)), model.levels, path)


def known(model: AutoregressiveModel) -> torch.Tensor:
    """The upper half, or masks of all kinds where the model sees them: bool (8, C, H, W)."""
    if sees_known(model.condition):
        kinds = [kind for kind in Masks(None, model.shape).kinds if kind != "nothing"]
        return torch.stack([torch.from_numpy(draw_mask(kinds[k % len(kinds)], model.shape, k)) for k in range(COMPLETED)])
    upper = torch.arange(model.shape[1])[:, None] < (model.shape[1] + 1) // 2
    return upper.expand(COMPLETED, *model.shape)


def section(of: Facts, model: AutoregressiveModel) -> str:
    """The model's part of the page."""
    classes = " The classes in turn." if model.condition is not None and model.condition.source == "label" else ""
    per_image = " per image" if of.unit == "nats" else ""
    figure = f"{of.figure} ± {of.standard_error} {of.unit}{per_image}"
    return f"""## {of.name}

{of.draws[0].upper() + of.draws[1:]}: {of.architecture}, {of.parameters:,} parameters, {figure}.{classes}

![samples of {of.name}](images/gallery-{of.name}.png)

![completions of {of.name}](images/gallery-{of.name}-completions.png)
"""


if __name__ == "__main__":
    main()
