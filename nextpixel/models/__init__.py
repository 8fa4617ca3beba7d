"""The architectures, one file per paper. A new one is registered here with one line."""

from nextpixel.models.base import AutoregressiveModel
from nextpixel.models.gated_pixelcnn import GatedPixelCNN
from nextpixel.models.multiscale import MultiScale
from nextpixel.models.pixelcnn import PixelCNN
from nextpixel.models.pixelcnn_pp import PixelCNNpp
from nextpixel.models.pixelrnn import DiagonalBiLSTM, RowLSTM

MODELS: dict[str, type[AutoregressiveModel]] = {
    model.name: model for model in (PixelCNN, RowLSTM, DiagonalBiLSTM, GatedPixelCNN, PixelCNNpp, MultiScale)
}
