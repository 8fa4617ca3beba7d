"""A softmax over the levels (van den Oord, Kalchbrenner, Kavukcuoglu 2016, arXiv:1601.06759, section 2.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from nextpixel.likelihoods.base import DrawInstruction, Likelihood, at_least_float32


class Categorical(Likelihood):
    """One softmax over the levels for each channel; for 2 levels one logit and a sigmoid, as in the papers' binary MNIST.

    .. math:: p(x_{ijc} = k) = \\mathrm{softmax}_k(\\theta_{ijc})

    The parameters of channel c are the c-th of C equal runs (arXiv:1601.06759, section 2.2).

    Raises:
        InputError: levels outside 2..8192 or no channels.

    Example:
        >>> likelihood = Categorical(channels=3, levels=256)
        >>> likelihood.params
        768
        >>> likelihood.log_prob(torch.zeros(1, 768, 2, 2), torch.zeros(1, 3, 2, 2, dtype=torch.long)).exp()[0, 0, 0] * 256**3
        tensor(1.0000)
    """

    name = "categorical"

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__(channels, levels)
        self.per_channel = 1 if levels == 2 else levels
        self.params = channels * self.per_channel
        self.colours = channels

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        return self.log_prob_each(params, x).sum(1)

    def log_prob_each(self, params: Tensor, x: Tensor) -> Tensor:
        logits = at_least_float32(params).unflatten(1, (self.channels, self.per_channel))
        if self.levels == 2:
            # log sigmoid(l) for a one, log sigmoid(-l) for a zero
            return F.logsigmoid(logits[:, :, 0] * (2 * x.long() - 1))
        return -F.cross_entropy(logits.transpose(1, 2), x.long(), reduction="none")

    def pmf(self, params: Tensor, known: Tensor, c: int, temperature: float = 1.0) -> Tensor:
        logits = _tempered(params[:, self._of(c)], temperature)
        if self.levels == 2:
            return torch.sigmoid(torch.cat([-logits, logits], dim=1))
        return logits.softmax(1)

    def log_pmf(self, params: Tensor, known: Tensor, c: int) -> Tensor:
        logits = at_least_float32(params[:, self._of(c)])
        if self.levels == 2:
            return F.logsigmoid(torch.cat([-logits, logits], dim=1))
        return logits.log_softmax(1)

    def start(self, x: Tensor) -> Tensor:
        r"""The logarithm of each symbol's share of x (N, C): of n places with k the symbol of n_k, :math:`\log (n_k + a)`.

        The pseudo-count a is 1, or less where there are fewer places than 16 for each level: n / (16 levels) altogether.
        """
        counts = torch.stack([torch.bincount(channel, minlength=self.levels) for channel in x.t().long()]).double()
        log = (counts + min(1.0, len(x) / (16 * self.levels))).log()
        log = (log - log.logsumexp(1, keepdim=True)).float()
        return log[:, 1] - log[:, 0] if self.levels == 2 else log.flatten()

    def draw(self, params: Tensor, known: Tensor, c: int, noise: Tensor, temperature: float = 1.0) -> Tensor:
        if self.levels > 2:
            return super().draw(params, known, c, noise, temperature)
        # The same rule without a table of two entries: a one if P(X <= 0) does not exceed the noise.
        logit = _tempered(params[:, c], temperature)
        return (torch.sigmoid(-logit).to(noise.dtype) <= noise).long()

    def draw_instruction(self, c: int, temperature: float = 1.0, guidance: float = 1.0) -> DrawInstruction:
        opcode = "binary" if self.levels == 2 else "categorical"
        return DrawInstruction(opcode, self._of(c), (temperature, guidance), scratch=self.levels)

    def _of(self, c: int) -> slice:
        """The parameters of channel c."""
        return slice(c * self.per_channel, (c + 1) * self.per_channel)


def _tempered(params: Tensor, temperature: float) -> Tensor:
    logits = at_least_float32(params)
    return logits if temperature == 1 else logits / temperature
