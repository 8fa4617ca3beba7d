"""nextpixel: the PixelCNN family of image models, with exact likelihoods.

The public names are imported when they are first used, so that `nextpixel --help` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "MODELS": "nextpixel.models",
    "AutoregressiveModel": "nextpixel.models",
    "DiagonalBiLSTM": "nextpixel.models",
    "GatedPixelCNN": "nextpixel.models",
    "MultiScale": "nextpixel.models",
    "PixelCNN": "nextpixel.models",
    "PixelCNNpp": "nextpixel.models",
    "RowLSTM": "nextpixel.models",
    "Combination": "nextpixel.conditions",
    "Encoded": "nextpixel.conditions",
    "Known": "nextpixel.conditions",
    "Labels": "nextpixel.conditions",
    "SpatialMap": "nextpixel.conditions",
    "Vector": "nextpixel.conditions",
    "EmbeddingNetwork": "nextpixel.identities.network",
    "list_models": "nextpixel.bundled",
    "load": "nextpixel.models.storage",
    "load_embedding": "nextpixel.identities.network",
    "AnomalyDetector": "nextpixel.scoring.detector",
    "score": "nextpixel.scoring.detector",
    "surprise": "nextpixel.scoring.unusual",
    "Archive": "nextpixel.coding.archive",
    "compress": "nextpixel.coding.archive",
    "decompress": "nextpixel.coding.archive",
    "InputError": "nextpixel.errors",
}
_CALLED = {"score": "score_images"}  # what has another name where it is defined
__all__ = sorted([*_WHERE, "__version__"])

if TYPE_CHECKING:
    from nextpixel.bundled import list_models
    from nextpixel.coding.archive import Archive, compress, decompress
    from nextpixel.conditions import Combination, Encoded, Known, Labels, SpatialMap, Vector
    from nextpixel.errors import InputError
    from nextpixel.identities.network import EmbeddingNetwork, load_embedding
    from nextpixel.models import (
        MODELS,
        AutoregressiveModel,
        DiagonalBiLSTM,
        GatedPixelCNN,
        MultiScale,
        PixelCNN,
        PixelCNNpp,
        RowLSTM,
    )
    from nextpixel.models.storage import load
    from nextpixel.scoring.detector import AnomalyDetector
    from nextpixel.scoring.detector import score_images as score
    from nextpixel.scoring.unusual import surprise


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'nextpixel' has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), _CALLED.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
