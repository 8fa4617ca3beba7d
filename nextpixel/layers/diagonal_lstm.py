"""The Diagonal BiLSTM layer (van den Oord, Kalchbrenner, Kavukcuoglu 2016, arXiv:1601.06759, section 3.2), for all places at once
and for one place of a scan.

    left to right      . a .     its state comes from above (h), on the row clock, and from the left (h and c), on the pixel clock
                       l x
    right to left        a .     the mirror image. Its map is shifted down by one row, so that no place sees what comes after it:
                         x r     all of it is row clock

Both directions run as one batch along the diagonals (layers/recurrence.py). In a scan the right-to-left half runs over the row
that has just been finished.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.layers.conditioning import ConditionBias, condition_row
from nextpixel.layers.grid import Each, colour_groups, same
from nextpixel.layers.lstm import Gates, open_forget_gates
from nextpixel.layers.masked import MaskedConv2d
from nextpixel.layers.pointwise import repeat
from nextpixel.layers.recurrence import batch_first, batch_last, diagonals, lstm, product


@dataclass
class RightCache:
    """The right-to-left half: all of it row clock."""

    weight: Tensor  # (in, 4F): input-to-state
    above: Tensor  # (F, 4F): state-to-state from above
    right: Tensor  # (F, 4F): and from the right
    pixel: Tensor | None  # (C, 4F): from the image
    bias: Tensor | None
    gates: Tensor  # (W, B, 4F)
    columns: Each[Gates]
    h: Tensor  # (W, B, F): of the newest finished row
    states: Each[Tensor]  # its columns
    c: Tensor  # (B, F)


@dataclass
class DiagonalCache:
    """What one DiagonalBiLSTMLayer remembers during a scan."""

    memory: Tensor  # (B, W + 1, in + F): what column j reads, its input and h of the column to its left
    above: Tensor  # (F, 4F): state-to-state from above
    bias: Tensor | None
    part: Tensor  # (B, W, 4F): what the row clock has found
    parts: list[Tensor]  # the same by colour group
    part_maps: list[Tensor | slice]  # the gates' maps of a colour group
    gates: list[Gates]
    # [colour group][column]: the row's part, the window, its weights, c to the left, c, h, h from the right, the sum of both h
    places: list[Each[tuple[Tensor, ...]]]
    inputs: list[Each[Tensor]]  # [colour group][column]: where a step finds its input
    outputs: Each[Tensor]  # [column]: the layer's output of all colour groups so far, (B, F)
    right: RightCache


class DiagonalBiLSTMLayer(nn.Module):
    r"""Two LSTMs that run along the diagonals, from both upper corners, so that together they see the whole past.

    .. math:: [o, f, i, g]_{ij} = \sigma(K^{left} h_{i,j-1} + K^{above} h_{i-1,j} + K^{is} x_{ij} + V s), \quad
        c_{ij} = f \odot c_{i,j-1} + i \odot g, \quad h_{ij} = o \odot \tanh(c_{ij})

    and y_ij = h_ij + (h of the mirrored one)_{i-1,j} (arXiv:1601.06759, section 3.2 and equation 3, tanh for g).

    Args:
        in_features, features: maps in and out.
        colours: colour groups; state-to-state needs none, because it reads finished places.
        condition_features: maps of the encoded condition s, 0 for none.
        image_features: in the first layer, maps of the encoded image, which the right-to-left half also reads through a 1x1. Its
            map is shifted down by a row, so it may; without it the last pixel of the row above is seen only near the right edge,
            because the maps at a pixel's own place do not depend on it.

    Shapes:
        forward: (B, in_features, H, W) -> (B, features, H, W).

    Raises:
        InputError: fewer maps than colours.

    Example:
        >>> DiagonalBiLSTMLayer(8, 4)(torch.zeros(2, 8, 5, 6), None).shape
        torch.Size([2, 4, 5, 6])
    """

    def __init__(
        self, in_features: int, features: int, colours: int = 1, condition_features: int = 0, image_features: int = 0
    ) -> None:
        super().__init__()
        self.in_features, self.features, self.colours = in_features, features, colours
        self.to_left_state = MaskedConv2d(in_features, 4 * features, 1, "B", colours, parts=4)
        self.to_right_state = MaskedConv2d(in_features, 4 * features, 1, "B", colours, parts=4)
        open_forget_gates(self.to_left_state.bias)
        open_forget_gates(self.to_right_state.bias)
        self.image_to_right_state = nn.Conv2d(image_features, 4 * features, 1, bias=False) if image_features else None
        # [direction], columns: h of the place before in the row, h of the place above
        self.state_to_state = nn.Parameter(torch.empty(2, 4 * features, 2 * features))
        bound = (2 * features) ** -0.5
        nn.init.uniform_(self.state_to_state, -bound, bound)
        self.condition_left = ConditionBias(condition_features, 4 * features) if condition_features else None
        self.condition_right = ConditionBias(condition_features, 4 * features) if condition_features else None

    def forward(self, x: Tensor, h: Tensor | None, image: Tensor | None = None) -> Tensor:
        """Maps x (B, in, H, W), the encoded condition h, and in the first layer the encoded image, to maps (B, F, H, W)."""
        both = [diagonals(*x.shape[2:], mirrored, x.device) for mirrored in (False, True)]
        maps = batch_last(x)
        gates = [
            product(conv.matrix().t(), lines.pack(maps), conv.bias)
            for lines, conv in zip(both, (self.to_left_state, self.to_right_state), strict=True)
        ]
        if self.image_to_right_state is not None:
            pixels = both[1].pack(batch_last(image).to(maps.dtype))
            gates[1] = gates[1] + product(self.image_to_right_state.weight.flatten(1), pixels)
        if self.condition_left is not None:
            for k, condition in enumerate((self.condition_left, self.condition_right)):
                gates[k] = gates[k] + both[k].pack(batch_last(condition(h).expand(-1, -1, *x.shape[2:])))
        # Mirrored or not, the lines are the same.
        states = lstm(torch.stack(gates), self.state_to_state, both[0])
        left, right = (lines.unpack(state) for lines, state in zip(both, states, strict=True))
        return batch_first(left + F.pad(right, (0, 0, 0, 0, 1, -1)))

    def start(self, batch: int, width: int, h: Tensor | None) -> DiagonalCache:
        """Memory for one scan over maps of this width under the encoded condition h."""
        (left, above), right_state = (kernel.detach().t().split(self.features) for kernel in self.state_to_state)
        weight = torch.cat([self.to_left_state.matrix().detach(), left])
        bias = self.to_left_state.bias.detach()
        memory = weight.new_zeros(batch, width + 1, self.in_features + self.features)
        part = bias.repeat(batch, width, 1)
        part_maps = self.to_left_state.outputs(weight.device)
        parts = [part] if self.colours == 1 else [part[..., maps] for maps in part_maps]
        weights = [weight[:, maps].contiguous() for maps in part_maps]
        c = weight.new_zeros(batch, width + 1, self.features)
        right = self._start_right(batch, width, h, *right_state)
        ins, outs = colour_groups(self.in_features, self.colours), colour_groups(self.features, self.colours)
        states, out = memory[..., self.in_features :], weight.new_zeros(batch, self.features)

        def place(j: int, k: int) -> tuple[Tensor, ...]:
            return (
                parts[k][:, j],
                memory[:, j],
                weights[k],
                c[:, j, outs[k]],
                c[:, j + 1, outs[k]],
                states[:, j + 1, outs[k]],
                right.h[j][:, outs[k]],
                out[:, outs[k]],
            )

        return DiagonalCache(
            memory=memory,
            above=above.contiguous(),
            bias=None if self.condition_left is None else self.condition_left.start(h),
            part=part,
            parts=parts,
            part_maps=part_maps,
            gates=[Gates(weight.new_empty(batch, matrix.shape[1])) for matrix in weights],
            places=[Each(partial(place, k=k)) for k in range(self.colours)],
            inputs=[Each(lambda j, group=group: memory[:, j, group]) for group in ins],
            outputs=same(out),
            right=right,
        )

    def _start_right(self, batch: int, width: int, h: Tensor | None, right: Tensor, above: Tensor) -> RightCache:
        weight = self.to_right_state.matrix().detach()
        gates = weight.new_empty(width, batch, 4 * self.features)
        states = weight.new_zeros(width, batch, self.features)
        pixel = None if self.image_to_right_state is None else self.image_to_right_state.weight.detach().flatten(1).t()
        bias = None if self.condition_right is None else self.condition_right.start(h)
        c, squashed = (states.new_zeros(batch, self.features) for _ in range(2))
        columns = Each(lambda j: Gates(gates[j], squashed))
        return RightCache(weight, above, right, pixel, bias, gates, columns, states, Each(states.__getitem__), c)

    def begin_row(self, cache: DiagonalCache, i: int, image: Tensor | None = None) -> None:
        """Row clock: state-to-state from above, and the whole right-to-left half, from the finished row above to row i.

        In the first layer `image` is that row of the encoded image, (B, W, C).
        """
        bias = self.to_left_state.bias
        if i == 0:
            cache.part.copy_(bias)
        else:
            above = cache.memory[:, 1:, self.in_features :].flatten(0, 1)
            torch.addmm(bias, above, cache.above, out=cache.part.flatten(0, 1))
            self._run_right(cache, i - 1, image)
        if cache.bias is not None:
            cache.part.add_(condition_row(cache.bias, i))
        if self.colours > 1:
            for part, maps in zip(cache.parts, cache.part_maps, strict=True):
                part.copy_(cache.part[..., maps])

    def _run_right(self, cache: DiagonalCache, i: int, image: Tensor | None) -> None:
        """The right-to-left LSTM over row i; its h replaces that of row i - 1."""
        right = cache.right
        gates = right.gates.flatten(0, 1)
        inputs = cache.memory[:, :-1, : self.in_features].transpose(0, 1).flatten(0, 1)
        torch.addmm(self.to_right_state.bias, inputs, right.weight, out=gates).addmm_(right.h.flatten(0, 1), right.above)
        if right.pixel is not None:
            gates.addmm_(image.transpose(0, 1).flatten(0, 1), right.pixel)
        if right.bias is not None:
            right.gates.add_(condition_row(right.bias, i).transpose(0, 1))
        right.c.zero_()
        width = len(right.h)

        def column(k: int) -> None:
            """The k-th from the right."""
            j = width - 1 - k
            if k:
                right.columns[j].memory.addmm_(right.states[j + 1], right.right)
            right.columns[j].step(right.c, right.c, right.states[j])

        repeat(column, width)

    def step(self, cache: DiagonalCache, x: Tensor, j: int, c: int = 0) -> Tensor:
        """Pixel and channel clock: colour group c of the input at column j, (B, in of c), to that of the output, (B, F of c)."""
        cache.inputs[c][j].copy_(x)
        return self.step_seen(cache, j, c)

    def step_seen(self, cache: DiagonalCache, j: int, c: int = 0) -> Tensor:
        """The same where `cache.inputs[c][j]` already holds the input."""
        part, window, weight, c_left, c_here, h, h_right, out = cache.places[c][j]
        torch.addmm(part, window, weight, out=cache.gates[c].memory)
        return torch.add(cache.gates[c].step(c_left, c_here, h), h_right, out=out)
