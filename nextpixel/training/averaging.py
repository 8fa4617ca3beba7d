r"""Averaged weights."""

import copy
from typing import Any

import torch
from torch import nn


class Average:
    r"""Averaged weights :math:`\bar\theta \leftarrow d_n \bar\theta + (1 - d_n) \theta` with :math:`d_n = \min(d, (1+n)/(10+n))`.

    A plain average lags by 1/(1-d) steps, which ruins short runs: the warm-up of d lets it start at once. The average is a
    network of its own, in eval mode: validation and drawing read it, and training never touches it but in `update`.

    Args:
        network: whose weights are averaged.
        decay: d.

    Attributes:
        network: with the averaged weights.
        updates: n.

    Example:
        >>> network = nn.Linear(1, 1)
        >>> average = Average(network, decay=0.5)
        >>> average.update(network)                       # the first update takes the weights as they are
        >>> with torch.no_grad():
        ...     _ = network.weight.add_(1)
        >>> average.update(network)                       # (1 + 1) / (10 + 1) is less than d
        >>> round((network.weight - average.network.weight).item(), 3)
        0.182
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay, self.updates = copy.deepcopy(network).requires_grad_(False).eval(), decay, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take up the weights of one more step; buffers are copied."""
        averages, weights = list(self.network.parameters()), list(network.parameters())
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.updates else 0.0
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "weights": self.network.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        self.network.load_state_dict(state["weights"])
