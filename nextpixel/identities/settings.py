"""How an embedding network is trained; imports nothing heavy, because the command line is parsed from it."""

from dataclasses import dataclass
from typing import Literal

from nextpixel.errors import InputError
from nextpixel.recipes.settings import TrainingSettings


@dataclass
class TripletSettings(TrainingSettings):
    """How an embedding network is trained; where these differ, they replace the others' meaning.

    Args:
        batch_size: Images per optimiser step (on each device): identities times `images_per_identity`.
        images_per_identity: Images of one identity in a batch, or all that it has.
        margin: By how much the squared distance of different identities must exceed that of the same one, between 0 and 4.
        mining: Triplets to learn from: "semi-hard" (the negative is farther than the positive, by less than the margin), "hard"
            (it is nearer), or "all" of both.
        eval_every: Epochs between validations, of which the weights with the largest area under the ROC curve are kept.
        clip: Largest norm of the gradient of the triplet loss; 0 does not clip.
    """

    batch_size: int = 128
    images_per_identity: int = 4
    margin: float = 0.2
    mining: Literal["semi-hard", "hard", "all"] = "semi-hard"
    sample_every: int = 0

    def check(self) -> None:
        """Refuse values that no run can satisfy, and settings of likelihood models.

        Raises:
            InputError: as in `TrainingSettings`; or a setting that an embedding network does not have is given.

        Example:
            >>> TripletSettings(stage=1).check()
            Traceback (most recent call last):
            nextpixel.errors.InputError: --training.stage is for likelihood models: an embedding network has none
        """
        super().check()
        for name in ("sample_every", "start", "stage", "recompute", "compile", "condition_dropout"):
            if getattr(self, name) != getattr(TripletSettings, name):
                raise InputError(f"--training.{name} is for likelihood models: an embedding network has none")
        if self.images_per_identity < 2:
            raise InputError(f"--training.images_per_identity is {self.images_per_identity}: expected at least 2")
        if self.batch_size < 2 * self.images_per_identity:
            least = f"at least two identities of {self.images_per_identity} images (--training.images_per_identity)"
            raise InputError(f"--training.batch_size is {self.batch_size}: expected {least}")
        if not 0 < self.margin < 4:
            raise InputError(f"--training.margin is {self.margin}: expected a number between 0 and 4")
