"""The shifted convolutions of PixelCNN++ (Salimans, Karpathy, Chen, Kingma 2017, arXiv:1701.05517, section 2.3 and Figure 2),
for all places at once and for one row or place of a scan, weight-normalised (Salimans and Kingma 2016, arXiv:1602.07868).

    down-shifted, 2x3        a a a        down-right-shifted, 2x2     a a       a: row above        read on the row clock
                             b b b                                    c x       b: current row      read on the row clock: the u
                               ^                                        ^          stream reads finished rows only
                                                                                c, x: current row   read on the pixel clock

They include the current place; the streams' first layers shift their *outputs* by one row or column, which is not the same as
shifting the input: a bias, and the map of ones, would otherwise reach places without a past.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.layers.grid import Each, PatchRow, RowConvolution, kernel_matrix

# Below this standard deviation a map is constant over the images.
CONSTANT = 1e-5


class WeightNormConv2d(nn.Module):
    r"""A convolution whose kernel is a direction and a gain for each output map.

    .. math:: y = \frac{g}{\lVert v \rVert} v * x + b

    (arXiv:1602.07868, equation 2). The norm is taken when the kernel is used, in the parameters' own precision.

    Args:
        in_features, out_features: maps in and out.
        kernel_size: (rows, columns).
        pad: zeros (above, on the sides).
        stride: in both directions.
        init_scale: standard deviation of the output after data-dependent initialisation, and the gain before it.

    Shapes:
        (B, in_features, H, W) -> (B, out_features, H / stride, W / stride).

    Example:
        >>> WeightNormConv2d(3, 8, (1, 1))(torch.zeros(2, 3, 4, 5)).shape
        torch.Size([2, 8, 4, 5])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: tuple[int, int],
        pad: tuple[int, int] = (0, 0),
        stride: int = 1,
        init_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.kernel_size = in_features, out_features, kernel_size
        self.pad, self.stride, self.init_scale = pad, stride, init_scale
        self.direction = nn.Parameter(torch.empty(out_features, in_features, *kernel_size))
        self.gain = nn.Parameter(torch.empty(out_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Directions from N(0, 0.05), as the authors do; their length has no effect but on the step size."""
        nn.init.normal_(self.direction, std=0.05)
        nn.init.constant_(self.gain, self.init_scale)
        nn.init.zeros_(self.bias)

    @property
    def weight(self) -> Tensor:
        """The kernel, (out, in, rows, columns)."""
        norm = torch.linalg.vector_norm(self.direction, dim=(1, 2, 3), keepdim=True)
        return self.direction * (self.gain.view(-1, 1, 1, 1) / norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The convolution itself, with any kernel of this layer's shape."""
        above, left = self.pad
        if above or left:
            # torch's own padding is the same at both ends. To cut off again what it puts below costs more: the gradient of the
            # cut is a padded copy, while here compiled code writes the layer's input where it is padded.
            right = self.kernel_size[1] - 1 - left
            x = F.pad(x, (left, right, above, 0))
        return F.conv2d(x, weight, bias, self.stride)

    @torch.no_grad()
    def initialise(self, *inputs: Tensor) -> None:
        r"""Set gain and bias so that the output over the inputs has mean 0 and standard deviation `init_scale` in every map.

        .. math:: g = \frac{s}{\sigma[t]}, \quad b = -\frac{s \mu[t]}{\sigma[t]}, \quad t = \frac{v}{\lVert v \rVert} * x

        (arXiv:1602.07868, section 3). A map that is constant over them has no deviation to divide by, and gets the gain s.
        """
        self.gain.fill_(1.0)
        self.bias.zero_()
        deviation, mean = torch.std_mean(self.forward(*inputs).float(), dim=(0, 2, 3), correction=0)
        self.gain.copy_(torch.where(deviation > CONSTANT, self.init_scale / deviation.clamp(min=CONSTANT), self.init_scale))
        self.bias.copy_(-mean * self.gain)


class NetworkInNetwork(WeightNormConv2d):
    """A 1x1 convolution, the paper's dashed short-cuts (Figure 2).

    Example:
        >>> NetworkInNetwork(16, 8)(torch.zeros(2, 16, 4, 5)).shape
        torch.Size([2, 8, 4, 5])
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, (1, 1))


class DownShiftedConv2d(WeightNormConv2d):
    """Sees the rows up to its own, of them as many columns to the right as to the left: the u stream, all of it row clock.

    Example:
        >>> DownShiftedConv2d(16, 8)(torch.zeros(2, 16, 4, 5)).shape
        torch.Size([2, 8, 4, 5])
    """

    def __init__(
        self, in_features: int, out_features: int, kernel_size: tuple[int, int] = (2, 3), stride: int = 1, init_scale: float = 1.0
    ) -> None:
        rows, columns = kernel_size
        pad = (rows - 1, columns // 2)
        super().__init__(in_features, out_features, kernel_size, pad, stride, init_scale)

    def start(self, batch: int, width: int) -> RowConvolution:
        """Memory for one scan over maps whose output is this wide. `push` takes an input row (W, B, in), a call gives the
        output row (width, B, out) that ends with it; a layer with stride 2 is called for every second row."""
        weight = self.weight.detach()
        out = weight.new_empty(width, batch, self.out_features)
        return RowConvolution(weight, self.bias.detach(), out, self.stride, axis=0)


@dataclass
class DownRightCache:
    """What one DownRightShiftedConv2d remembers during a scan."""

    row: PatchRow
    part: Tensor  # (W, B, out): what the row clock has found for the current row, bias included
    parts: Each[Tensor]  # the same by column
    bias: Tensor
    above: Tensor  # the kernel for the row above, (columns * in, out)
    weight: Tensor  # and for the current one


class DownRightShiftedConv2d(WeightNormConv2d):
    """Sees the places above and to the left, its own included: the ul stream, on the row and the pixel clock.

    Example:
        >>> DownRightShiftedConv2d(16, 8)(torch.zeros(2, 16, 4, 5)).shape
        torch.Size([2, 8, 4, 5])
    """

    def __init__(
        self, in_features: int, out_features: int, kernel_size: tuple[int, int] = (2, 2), stride: int = 1, init_scale: float = 1.0
    ) -> None:
        rows, columns = kernel_size
        super().__init__(in_features, out_features, kernel_size, (rows - 1, columns - 1), stride, init_scale)

    def start(self, batch: int, width: int) -> DownRightCache:
        """Memory for one scan over maps whose output is this wide."""
        weight = self.weight.detach()
        part = weight.new_empty(width, batch, self.out_features)
        return DownRightCache(
            row=PatchRow(batch, width, self.in_features, self.kernel_size[1], self.stride, weight),
            part=part,
            parts=Each(part.__getitem__),
            bias=self.bias.detach(),
            above=kernel_matrix(weight[:, :, :-1]),
            weight=kernel_matrix(weight[:, :, -1:]),
        )

    def begin_row(self, cache: DownRightCache) -> Tensor:
        """Row clock: from the row that `row` holds, which is finished, to the part (W, B, out) of the row below it."""
        torch.addmm(cache.bias, cache.row.patches, cache.above, out=cache.part.flatten(0, 1))
        return cache.part

    def step(self, cache: DownRightCache, j: int) -> Tensor:
        """Pixel clock: column j of the output, (B, out), where `row` already holds the input of its place."""
        return torch.addmm(cache.parts[j], cache.row.windows[j], cache.weight)


class DownShiftedDeconv2d(WeightNormConv2d):
    """Twice the height and width, 2x3 transposed: row i of the result reads row i // 2, all columns (u stream).

    Example:
        >>> DownShiftedDeconv2d(16, 8)(torch.zeros(2, 16, 4, 5)).shape
        torch.Size([2, 8, 8, 10])
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, (2, 3), stride=2)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv_transpose2d(x, weight.transpose(0, 1), bias, 2, padding=(0, 1), output_padding=(0, 1))

    def start(self) -> tuple[Tensor, Tensor]:
        """The kernel as matrices (2 rows, 3 columns, in, out) and the bias: all that a scan needs."""
        return self.weight.detach().permute(2, 3, 1, 0).contiguous(), self.bias.detach()

    def begin_row(self, cache: tuple[Tensor, Tensor], row: Tensor, i: int) -> Tensor:
        """Row clock: row i of the result, (2 W, B, out), from row i // 2 of the input (W, B, in)."""
        (left, centre, right), bias = cache[0][i % 2], cache[1]
        even = row @ centre + bias
        odd = row @ right + bias
        odd[:-1] += row[1:] @ left
        return torch.stack([even, odd], 1).flatten(0, 1)


@dataclass
class DeconvCache:
    """What one DownRightShiftedDeconv2d remembers during a scan: its finished input row, and the output row being read."""

    row: Tensor  # (W, B, in)
    fine: Tensor  # (W, B, 2 * out): a column of the input has two columns of the output
    pairs: Each[Tensor]  # [column of the input]: (B, 2 * out)
    columns: Each[Tensor]  # [column of the output]: (B, out)
    weights: list[Tensor]  # [row of the kernel]: (in, 2 * out)
    bias: Tensor


class DownRightShiftedDeconv2d(WeightNormConv2d):
    """Twice the height and width, 2x2 transposed: each place becomes a block of four (ul stream).

    The upper two are written on the pixel clock of the coarse place, the lower two on the row clock of their row.

    Example:
        >>> DownRightShiftedDeconv2d(16, 8)(torch.zeros(2, 16, 4, 5)).shape
        torch.Size([2, 8, 8, 10])
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, (2, 2), stride=2)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv_transpose2d(x, weight.transpose(0, 1), bias, 2)

    def start(self, batch: int, width: int) -> DeconvCache:
        """Memory for one scan over maps whose input is this wide."""
        weight = self.weight.detach().permute(2, 1, 3, 0)  # (2 rows, in, 2 columns, out)
        fine = weight.new_zeros(width, batch, 2 * self.out_features)
        return DeconvCache(
            row=weight.new_zeros(width, batch, self.in_features),
            fine=fine,
            pairs=Each(fine.__getitem__),
            columns=Each(lambda j: fine[j // 2].chunk(2, 1)[j % 2]),
            weights=[kernel.flatten(1).contiguous() for kernel in weight],
            bias=self.bias.detach().repeat(2),
        )

    def begin_row(self, cache: DeconvCache, i: int) -> None:
        """Row clock: row i of the result, if it is the lower one, whose input is complete."""
        if i % 2:
            torch.addmm(cache.bias, cache.row.flatten(0, 1), cache.weights[1], out=cache.fine.flatten(0, 1))

    def step(self, cache: DeconvCache, x: Tensor, j: int) -> None:
        """Pixel clock: column j of the input (B, in), to the two columns above the lower ones."""
        cache.row[j] = x
        torch.addmm(cache.bias, x, cache.weights[0], out=cache.pairs[j])
