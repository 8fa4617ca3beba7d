"""The Row LSTM layer (van den Oord, Kalchbrenner, Kavukcuoglu 2016, arXiv:1601.06759, section 3.1), for all places at once and
for one place of a scan; and the gates of one place of any LSTM.

    row above      h h h      state-to-state: 1xk over the finished row, read on the row clock; c comes from the middle
    current row    x x . .    input-to-state: 1xk with mask B, read on the pixel clock

The states of a row are found side by side. A place's context in the rows above widens by k // 2 columns a row: a triangle.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.errors import InputError
from nextpixel.layers.conditioning import ConditionBias, condition_row
from nextpixel.layers.grid import Each, RowConvolution, colour_groups
from nextpixel.layers.masked import LARGEST_KERNEL, ConvCache, MaskedConv2d
from nextpixel.layers.recurrence import batch_first, batch_last, lstm, product, rows


class Gates:
    """The gates o, f, i, g of one place, in memory that products write to.

    Args:
        memory: (B, 4F); what stands there before a step is the gates' input.
        squashed: (B, F), for the tanh of a cell: new memory, if it is not given.

    Example:
        >>> gates, c = Gates(torch.zeros(1, 8)), torch.zeros(1, 2)
        >>> gates.step(before=torch.ones(1, 2), c=c, h=torch.empty(1, 2))
        tensor([[0.2311, 0.2311]])
    """

    def __init__(self, memory: Tensor, squashed: Tensor | None = None) -> None:
        features = memory.shape[1] // 4
        self.memory, self.sigmoids = memory, memory[:, : 3 * features]
        self.output, self.forget, self.write, self.new = memory.chunk(4, 1)
        self.squashed = memory.new_empty(len(memory), features) if squashed is None else squashed

    def step(self, before: Tensor, c: Tensor, h: Tensor) -> Tensor:
        """c and h, (B, F) each, of this place from the c `before`; returns h."""
        self.sigmoids.sigmoid_()
        torch.mul(self.forget, before, out=c).addcmul_(self.write, self.new.tanh_())
        return torch.mul(self.output, torch.tanh(c, out=self.squashed), out=h)


def open_forget_gates(bias: Tensor) -> None:
    """Let a fresh LSTM remember: the bias of its forget gates is 1 (Jozefowicz, Zaremba, Sutskever 2015)."""
    features = len(bias) // 4
    with torch.no_grad():
        bias[features : 2 * features] = 1


@dataclass
class RowLSTMCache:
    """What one RowLSTMLayer remembers during a scan."""

    conv: ConvCache
    state: RowConvolution
    bias: Tensor | None
    h: Tensor  # (B, W, F): of the current row
    c: Tensor
    c_above: Tensor  # (B, W, F)
    gates: list[Gates]  # of a colour group
    places: list[Each[tuple[Tensor, Tensor, Tensor]]]  # [colour group][column]: c above, c, h
    inputs: list[Each[Tensor]]  # [colour group][column]: where a step finds its input
    outputs: Each[Tensor]  # [column]: h of all colour groups so far, (B, F)


class RowLSTMLayer(nn.Module):
    r"""An LSTM that runs down the rows, with a convolution along the row in both of its maps.

    .. math:: [o_i, f_i, i_i, g_i] = \sigma(K^{ss} * h_{i-1} + K^{is} * x_i + V s), \quad c_i = f_i \odot c_{i-1} + i_i \odot g_i,
        \quad h_i = o_i \odot \tanh(c_i)

    (arXiv:1601.06759, equation 3, tanh for g). The state above the first row is learned, one number per map.

    Args:
        in_features, features: maps in and out.
        kernel_size: odd k of both maps.
        colours: colour groups; state-to-state needs none, because it reads finished rows.
        condition_features: maps of the encoded condition s, 0 for none.

    Shapes:
        forward: (B, in_features, H, W) -> (B, features, H, W).

    Raises:
        InputError: an even kernel, or fewer maps than colours.

    Example:
        >>> RowLSTMLayer(8, 4, kernel_size=3)(torch.zeros(2, 8, 5, 6), None).shape
        torch.Size([2, 4, 5, 6])
    """

    def __init__(
        self, in_features: int, features: int, kernel_size: int = 3, colours: int = 1, condition_features: int = 0
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0 or not 1 <= kernel_size <= LARGEST_KERNEL:
            raise InputError(f"kernel_size must be odd, not {kernel_size}, and from 1 to {LARGEST_KERNEL}")
        self.features, self.kernel_size, self.colours = features, kernel_size, colours
        self.input_to_state = MaskedConv2d(in_features, 4 * features, (1, kernel_size), "B", colours, parts=4)
        open_forget_gates(self.input_to_state.bias)
        self.state_to_state = nn.Parameter(torch.empty(4 * features, kernel_size, features))
        bound = (kernel_size * features) ** -0.5
        nn.init.uniform_(self.state_to_state, -bound, bound)
        self.h_above = nn.Parameter(torch.zeros(features))
        self.c_above = nn.Parameter(torch.zeros(features))
        self.condition = ConditionBias(condition_features, 4 * features) if condition_features else None

    def forward(self, x: Tensor, h: Tensor | None) -> Tensor:
        """Maps x (B, in, H, W) and the encoded condition h to maps (B, F, H, W)."""
        lines, conv = rows(*x.shape[2:], self.kernel_size), self.input_to_state
        packed = lines.pack(batch_last(x))
        # Between rows stand k // 2 zeros, so that the window's columns are the packed maps, shifted.
        shifted = [F.pad(packed, (0, 0, v, -v)) for v in range(conv.left, -1, -1)]
        gates = product(conv.matrix().t(), torch.cat(shifted), conv.bias)
        if self.condition is not None:
            gates = gates + lines.pack(batch_last(self.condition(h).expand(-1, -1, *x.shape[2:])))
        initial = (self.h_above[None], self.c_above[None])
        y = lstm(gates[None], self.state_to_state.flatten(1)[None], lines, initial)
        return batch_first(lines.unpack(y[0]))

    def start(self, batch: int, width: int, h: Tensor | None) -> RowLSTMCache:
        """Memory for one scan over maps of this width under the encoded condition h."""
        conv = self.input_to_state.start(batch, width)
        kernel = self.state_to_state.detach().permute(0, 2, 1)[:, :, None]
        state, c, c_above = (kernel.new_zeros(batch, width, self.features) for _ in range(3))
        groups = colour_groups(self.features, self.colours)
        return RowLSTMCache(
            conv=conv,
            state=RowConvolution(kernel, self.input_to_state.bias.detach(), conv.row_part),
            bias=None if self.condition is None else self.condition.start(h),
            h=state,
            c=c,
            c_above=c_above,
            gates=[Gates(out) for out in conv.outs],
            places=[Each(lambda j, g=g: (c_above[:, j, g], c[:, j, g], state[:, j, g])) for g in groups],
            inputs=conv.row.slots,
            outputs=Each(lambda j: state[:, j]),
        )

    def begin_row(self, cache: RowLSTMCache, i: int) -> None:
        """Row clock: state-to-state, from the finished row above to the whole row i."""
        if i == 0:
            cache.h.copy_(self.h_above)
            cache.c_above.copy_(self.c_above)
        else:
            cache.c_above.copy_(cache.c)
        cache.state.push(cache.h)
        row = cache.state()
        if cache.bias is not None:
            row.add_(condition_row(cache.bias, i))
        cache.conv.spread()

    def step(self, cache: RowLSTMCache, x: Tensor, j: int, c: int = 0) -> Tensor:
        """Pixel and channel clock: colour group c of the input at column j, (B, in of c), to that of h, (B, F of c)."""
        cache.inputs[c][j].copy_(x)
        return self.step_seen(cache, j, c)

    def step_seen(self, cache: RowLSTMCache, j: int, c: int = 0) -> Tensor:
        """The same where `cache.inputs[c][j]` already holds the input."""
        self.input_to_state.step_seen(cache.conv, j, c)
        return cache.gates[c].step(*cache.places[c][j])
