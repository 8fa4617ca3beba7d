"""Which images a batch holds: from (seed, epoch, place in the epoch) alone, so that a run can go on at any of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from nextpixel.data.images import Images
from nextpixel.training.signals import SIGNALS

Batch = tuple[Tensor, Tensor | None]  # images and their labels, or other conditions


class Order(Protocol):
    """The batches of an epoch, over all processes."""

    def batches(self, epoch: int) -> list[list[int]]:
        """Positions of the images of each batch, in order: the processes share each batch."""
        ...


@dataclass(frozen=True)
class Shuffled:
    """Whole batches of a permutation that depends on seed and epoch; the images that fill no batch come in other epochs.

    A short last batch would weigh its images more, and would be compiled anew. Of fewer images than a batch, the batch is all.

    Args:
        images: how many there are.
        size: of a batch, over all processes.
        seed: of the permutations.

    Example:
        >>> Shuffled(images=5, size=2, seed=0).batches(epoch=1)
        [[0, 4], [2, 3]]
    """

    images: int
    size: int
    seed: int

    def batches(self, epoch: int) -> list[list[int]]:
        order = torch.randperm(self.images, generator=torch.Generator().manual_seed(self.seed + epoch)).tolist()
        whole = max(self.size, self.images - self.images % self.size)
        return [order[start : start + self.size] for start in range(0, min(whole, self.images), self.size)]


@dataclass(frozen=True)
class Draw:
    """A batch to load: its images, and the seed of what is random in loading them (flips, stochastic binarisation)."""

    positions: list[int]
    seed: int


class Batches(Dataset):
    """Images by `Draw`: the same batch in whatever process it is loaded, and whatever was loaded before it.

    Args:
        images: a split.
    """

    def __init__(self, images: Images) -> None:
        self.images = images

    def __getitem__(self, draw: Draw) -> Batch:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw.seed)
            return self.images.__getitems__(draw.positions)


class Loader:
    """Loads the batches of training, from any place in any epoch; its processes, if any, live as long as it does.

    Args:
        images: the training images.
        order: of the batches.
        seed: of what is random in loading them.
        workers: processes that load; 0 loads in this one.
        rank, world: this process takes every `world`-th image of a batch, from the `rank`-th on.

    Example:
        >>> from nextpixel.data.settings import DataSettings
        >>> from nextpixel.data.splits import load
        >>> images = load(DataSettings(source="digits", levels=17)).train
        >>> loader = Loader(images, Shuffled(len(images), size=32, seed=0), seed=0)
        >>> [x.shape[0] for x, _ in loader.epoch(0, first=42)]
        [32, 32]
    """

    def __init__(self, images: Images, order: Order, seed: int, workers: int = 0, rank: int = 0, world: int = 1) -> None:
        self.order, self.seed, self.rank, self.world = order, seed, rank, world
        self._of, self._all = -1, list[list[int]]()  # the last epoch that was asked for, and its batches
        self._draws: list[Draw] = []  # of the epoch that is being loaded; the loader below reads it at each start
        self._loader = DataLoader(
            Batches(images),
            batch_size=None,
            sampler=self,  # type: ignore[arg-type]
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_ignore_signals if workers else None,
            # Its own generator: otherwise each epoch would draw a number from torch's, which dropout reads.
            generator=torch.Generator().manual_seed(seed),
        )

    def __iter__(self) -> Iterator[Draw]:
        return iter(self._draws)

    def __len__(self) -> int:
        return len(self._draws)

    def close(self) -> None:
        """End the loading processes, which ignore the signals that would end them."""
        # torch ends them when the last reference to their iterator is gone, but a traceback may keep one.
        iterator, self._loader._iterator = self._loader._iterator, None
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()

    def number(self, epoch: int) -> int:
        """How many batches an epoch has."""
        return len(self._batches(epoch))

    def _batches(self, epoch: int) -> list[list[int]]:
        if self._of != epoch:
            self._of, self._all = epoch, self.order.batches(epoch)
        return self._all

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from the `first` on."""
        mine = [batch[self.rank :: self.world] for batch in self._batches(epoch)]
        self._draws = [
            Draw(positions, _seed(self.seed, epoch, k * self.world + self.rank)) for k, positions in list(enumerate(mine))[first:]
        ]
        return iter(self._loader)


def in_order(images: Images, size: int, take: Callable[[int], bool] = lambda k: True) -> Iterator[Batch]:
    """The batches of a split in its order; of these only the ones whose number is taken."""
    for k, start in enumerate(range(0, len(images), size)):
        if take(k):
            yield images.__getitems__(range(start, min(start + size, len(images))))


def _seed(*numbers: int) -> int:
    """One seed of several numbers, so that near ones give unlike streams (Steele, Lea, Flood 2014, SplitMix64's mix)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state % 2**63


def _ignore_signals(worker: int) -> None:
    """A terminal's Ctrl-C reaches the loading processes too: they go when the run does, not before it has saved."""
    import signal

    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


def to_device(batch: Batch, device: torch.device) -> tuple[Any, Any]:
    """A batch on the device that computes."""
    x, labels = batch
    return x.to(device), None if labels is None else labels.to(device)
