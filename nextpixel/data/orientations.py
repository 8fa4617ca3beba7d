"""scikit-learn's digits as identities: every written digit is one, in all its orientations."""

import numpy as np

from nextpixel.data.arrays import load_digits
from nextpixel.data.raw import RawImages
from nextpixel.data.settings import DataSettings

ORIENTATIONS = 8


def load_digit_identities(settings: DataSettings) -> dict[str, RawImages]:
    """Return eight images of each of the 1797 written digits: turned by 0 to 3 quarter turns, and each of these mirrored.

    The label is the written digit, 0..1796, not its class: two different sevens are two identities. It is an embedded stand-in
    for photographs of people, whose pose changes from one to the next.

    Example:
        >>> raw = load_digit_identities(DataSettings())["all"]
        >>> raw.images.shape, raw.labels[[0, 7, 8]]
        ((14376, 1, 8, 8), array([0, 0, 1]))
    """
    digits = load_digits(settings)["all"]
    turned = [np.rot90(digits.images, k, axes=(2, 3)) for k in range(4)]
    views = np.stack([view for image in turned for view in (image, image[..., ::-1])], axis=1)
    labels = np.repeat(np.arange(len(digits)), ORIENTATIONS)
    return {"all": RawImages(views.reshape(-1, *views.shape[2:]), labels, None, digits.levels)}
