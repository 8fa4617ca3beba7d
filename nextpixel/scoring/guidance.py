"""What guidance does to a model: how many samples are recognised, and what test images cost, from strength to strength."""

from dataclasses import dataclass

from torch import Tensor

from nextpixel.data.images import Images
from nextpixel.models.base import AutoregressiveModel
from nextpixel.progress import rows_bar
from nextpixel.scoring.evaluation import Evaluation, evaluate
from nextpixel.scoring.recognition import Classifier, Recognition, recognise_samples, sampled

STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
SCORED = 500  # images whose likelihood is computed at every strength


@dataclass(frozen=True, eq=False)
class Strength:
    """A model under guidance of one strength.

    Args:
        guidance: s, 0 for the unconditional model and 1 for the model itself.
        samples: of all classes, (N, C, H, W), from the same noise at every strength.
        recognition: what a classifier sees in them.
        evaluation: the likelihood of test images, the same at every strength.
    """

    guidance: float
    samples: Tensor
    recognition: Recognition
    evaluation: Evaluation


def sweep(
    model: AutoregressiveModel,
    classifier: Classifier,
    images: Images,
    strengths: tuple[float, ...] = STRENGTHS,
    scored: int = SCORED,
    seed: int = 0,
) -> list[Strength]:
    """Draw from a class-conditional model at some strengths of guidance, and score real images by the same laws.

    Args:
        model: whose condition is `Labels`, trained with condition dropout: else its unconditional law means nothing.
        classifier: of images of the same kind.
        images: labelled images to score.
        strengths: of guidance.
        scored: how many images at most, spread over the split.
        seed: of the noise.

    Raises:
        InputError: as `recognise_samples` or `evaluate`.

    Example:
        >>> import nextpixel
        >>> from nextpixel.data.settings import DataSettings
        >>> from nextpixel.data.splits import load
        >>> splits = load(DataSettings(source="digits", levels=17))
        >>> model = nextpixel.GatedPixelCNN((1, 8, 8), levels=17, features=8, blocks=1, condition=nextpixel.Labels(10))
        >>> for line in sweep(model, Classifier.fit(splits.train), splits.test, strengths=(1, 2), scored=20):
        ...     print(line.guidance, line.samples.shape, line.evaluation.nats.shape)
        1 torch.Size([250, 1, 8, 8]) (20,)
        2 torch.Size([250, 1, 8, 8]) (20,)
    """
    rows = model.scan_rows(sampled(model.condition.features))
    with rows_bar(f"drawing at {len(strengths)} strengths of guidance", rows * len(strengths)) as progress:
        drawn = [recognise_samples(model, classifier, seed, s, progress) for s in strengths]
    scores = [evaluate(model, images, guidance=s, most=scored) for s in strengths]
    return [Strength(s, *of_s, score) for s, of_s, score in zip(strengths, drawn, scores, strict=True)]
