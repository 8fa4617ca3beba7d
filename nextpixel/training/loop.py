"""The training loop, of every kind of run: steps, averages, validation, checkpoints, and stopping at any moment without a loss.

    while the budget lasts:
        train       the steps of an epoch: forward, backward, clip, optimiser, average
        validate    the averaged network on the validation images; the best weights so far are kept
        draw        a sample grid

After each step the loop reads a flag that signals set. A run that is stopped anywhere goes on with the bits that it would have
had: a checkpoint holds weights, averages, optimiser, random generators, the place in the epoch and the figures so far, and what a
batch holds follows from its place (nextpixel.training.batches). Lightning Fabric provides devices, processes and precision.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from nextpixel.data.images import Images
from nextpixel.errors import InputError
from nextpixel.scan.evaluating import eval_mode
from nextpixel.training.batches import Batch, Loader, to_device
from nextpixel.training.checkpoint import BEST, LAST, Place, Progress, generators, set_generators, write_checkpoint
from nextpixel.training.metrics import Metrics, RunProgress, Stopwatch
from nextpixel.training.objective import Objective, optimise, set_learning_rate
from nextpixel.training.optimisation import Average, Budget
from nextpixel.training.processes import Agreement
from nextpixel.training.signals import Interrupted, Stop

# What a process reports to the others after each batch; the largest counts. Signals have the numbers between.
SAVE, OVER, NOT_FINITE = 1, 100, 1000
# Draws a sample grid of a network to a file; calls its last argument now and then, which may raise.
DrawGrid = Callable[[nn.Module, Path, Callable[..., None]], None]


class _Stopped(Exception):
    """Ends the drawing of a grid."""


class Loop:
    """The training of one network.

    Args:
        objective: the network, its loss and its validation.
        loader: of training batches.
        validation: images.
        budget: the length of the run.
        metrics: where figures go.
        progress: what people see; quiet in all processes but the first.
        fabric: devices and precision.
        agreement: between the processes.
        out: the run folder.
        draw: makes a sample grid; None where there is nothing to draw.
    """

    def __init__(
        self,
        objective: Objective,
        loader: Loader,
        validation: Images,
        budget: Budget,
        metrics: Metrics,
        progress: RunProgress,
        fabric: Fabric,
        agreement: Agreement,
        out: Path,
        draw: DrawGrid | None = None,
    ) -> None:
        self.objective, self.loader, self.validation, self.budget = objective, loader, validation, budget
        self.metrics, self.progress, self.fabric, self.agreement = metrics, progress, fabric, agreement
        self.out, self.draw, self.settings = out, draw, objective.settings
        optimizer = optimise(objective, self.settings)
        self.module, self.optimizer = fabric.setup(objective, optimizer)
        self.average = Average(objective.network, self.settings.ema) if self.settings.ema else None
        self.place, self.best, self.stopwatch = Place(), None, Stopwatch()
        self.best_value: float | None = None
        self.losses = torch.zeros(2, dtype=torch.float64)  # sum and number since the last validation
        self.stop, self.begun_at, self.saved_at = Stop(agreement.first_pid), 0, time.monotonic()

    @property
    def network(self) -> nn.Module:
        """What is validated, drawn from and kept: the average, or without averaging the network itself."""
        return self.objective.network if self.average is None else self.average.network

    def run(self, state: dict[str, Any] | None = None) -> None:
        """Train to the end of the budget; from a checkpoint's state on, if one is given.

        Raises:
            Interrupted: a signal; everything is saved.
            InputError: the loss became infinite, or nothing could be written.
        """
        with self.stop:
            self._begin(state)
            with self.progress.training(self.place, self.budget):
                phases = {"train": self._train, "validate": self._validate, "draw": self._draw}
                while True:
                    if self.place.phase == "train" and self._is_over():
                        if self.place.validated == self.place.step:
                            break
                        self.place = self.place.moved(phase="validate")
                    phases[self.place.phase]()
                self._save(finished=True)

    # --- the phases ----------------------------------------------------------------------------------------------------------

    def _train(self) -> None:
        """The steps of an epoch, from the place on."""
        self.objective.train()
        number, batches = self.loader.number(self.place.epoch), self.loader.epoch(self.place.epoch, self.place.batch)
        while self._step(batches, number) < OVER and self.place.batch and self.place.phase == "train":
            pass
        long_ago = time.monotonic() - self.saved_at > self.settings.save_every * 30
        if self.place.phase == "validate" and long_ago and self.agreement.world == 1:
            self._save()  # a validation may be long

    def _step(self, batches: Iterator[Batch], number: int) -> int:
        """One optimiser step from the mean gradient of the next batches of `number`; returns what the processes agree on."""
        size, epoch = min(self.settings.accumulate, number - self.place.batch), self.place.epoch
        before = generators() if size > 1 else None
        set_learning_rate(self.optimizer, self._learning_rate())
        total, status = torch.zeros((), device=self.fabric.device), 0
        for k in range(size):
            with self.stopwatch.waiting():
                batch = next(batches)
            with self.stopwatch.training(len(batch[0]) * self.agreement.world):
                with self.fabric.no_backward_sync(self.module, enabled=k + 1 < size):
                    loss = self.module(to_device(batch, self.fabric.device))
                    self.fabric.backward(loss / size)
                total += loss.detach() / size
                status = self.agreement.most(self._status(loss))
            if status == NOT_FINITE:
                self._refuse(loss)
            if 1 < status < OVER and k + 1 < size:
                # The gradients so far are given up: the place is that of the last whole step, and so are the generators.
                self.optimizer.zero_grad()
                self._interrupt(status, before)
        with self.stopwatch.training():
            if self.settings.clip:
                nn.utils.clip_grad_norm_(self.objective.parameters(), self.settings.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.average is not None:
                self.average.update(self.objective.network)
        self.place = self._after(size, number)
        self._note(total, epoch)
        if 1 < status < OVER:
            self._interrupt(status)
        if status == SAVE:
            self._save()
        return status

    def _after(self, size: int, number: int) -> Place:
        """The place after a step of so many batches: whatever ends the run now, it goes on with what comes next."""
        place = self.place.moved(step=self.place.step + 1, batch=self.place.batch + size)
        if place.batch == number:
            place = place.moved(epoch=place.epoch + 1, batch=0)
        due = place.batch == 0 and place.epoch % self.settings.eval_every == 0
        all_steps = self.budget.steps is not None and place.step >= self.budget.steps
        return place.moved(phase="validate") if due or all_steps else place

    def _validate(self) -> None:
        """Validate, keep the best weights, and save."""
        self.progress.phase("validating", self.place, self.budget)
        network = self.network
        with eval_mode(network), torch.inference_mode(), self.fabric.autocast():
            figures = self.objective.validate(network, self.validation, self.agreement, self._pause)
        value = figures[self.objective.metric]
        self.metrics.log(figures, max(0, self.place.step - 1), max(0, self.place.epoch - 1)) if self._is_first() else None
        train = (self.losses[0] / self.losses[1]).item()
        self.progress.validated(self.place, self.budget, train, value)
        self.losses.zero_()
        if self.objective.better(value, self.best_value):
            self.best, self.best_value = self.place.words(self.budget.epochs), value
            self._keep(value)
        self.place = self.place.moved(phase="draw", validated=self.place.step)
        self._save()

    def _draw(self) -> None:
        """A sample grid, if its epoch has come."""
        every, epoch = self.settings.sample_every, self.place.epoch
        if every and self.draw is not None and epoch // every > self.place.drawn // every:
            self.progress.phase("drawing", self.place, self.budget)
            if self._is_first():
                with suppress(_Stopped):
                    self.draw(self.network, self.out / "samples" / f"epoch-{epoch:04d}.png", self._raise_if_stopped)
            self.agreement.wait_for_first()
            if status := self.agreement.most(self.stop.signum):
                self._interrupt(status)  # the grid is drawn again when the run goes on
            self.place = self.place.moved(drawn=epoch)
        self.place = self.place.moved(phase="train")
        self.progress.phase("", self.place, self.budget)

    # --- stopping and saving -------------------------------------------------------------------------------------------------

    def _begin(self, state: dict[str, Any] | None) -> None:
        self.budget.start()
        if state is not None:
            self._take_up(state)
        if self._is_first():
            self.metrics.begin(state["metrics"] if state is not None else "")
        self.begun_at = self.place.step
        if state is None:
            self._save()  # so that a run that is killed in its first minute, or while it compiles, can go on

    def _take_up(self, state: dict[str, Any]) -> None:
        """Put everything back to where a checkpoint was written."""
        self.objective.network.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])
        self.place, self.best, self.best_value = Place(**state["place"]), state["best"], state["best_value"]
        if state["batch_size"] != self._images_per_batch():
            seen = self.place.batch * state["batch_size"]
            self.place = self.place.moved(batch=-(-seen // self._images_per_batch()))
        if self.place.batch >= self.loader.number(self.place.epoch):  # of larger batches, or of fewer images
            self.place = self.place.moved(epoch=self.place.epoch + 1, batch=0)
        self.losses = torch.tensor(state["losses"], dtype=torch.float64)
        self.stopwatch.load_state_dict(state["stopwatch"])
        self.budget.go_on(self.place.step, self.place.epoch, self.place.batch, state["elapsed"])
        if len(state["generators"]) > self.agreement.rank:
            set_generators(state["generators"][self.agreement.rank])

    def _save(self, states: dict[str, Tensor] | None = None, finished: bool = False) -> None:
        """Write last.ckpt and progress.json, and before the first validation the weights so far as the run's model."""
        all_states = self.agreement.all(generators() if states is None else states)
        if self._is_first():
            self.progress.phase("saving", self.place, self.budget)
            if self.best_value is None:
                words = self.place.words(self.budget.epochs)
                self.objective.save(self.network, self.out / "model", f"Not validated yet: the weights of {words}.")
            write_checkpoint(
                self.out / LAST,
                {
                    "weights": self.objective.network.state_dict(),
                    "average": None if self.average is None else self.average.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "generators": all_states,
                    "place": vars(self.place).copy(),
                    "best": self.best,
                    "best_value": self.best_value,
                    "losses": self.losses.tolist(),
                    "stopwatch": self.stopwatch.state_dict(),
                    "elapsed": self.budget.elapsed,
                    "metrics": self.metrics.text,
                    "batch_size": self._images_per_batch(),
                    "processes": self.agreement.world,
                    "finished": finished,
                },
            )
            self._describe(finished).write(self.out)
            self.progress.phase("", self.place, self.budget)
        self.saved_at = time.monotonic()

    def _keep(self, value: float) -> None:
        """Write the weights that were validated as the best so far: best.ckpt for the report, and the run's model."""
        if not self._is_first():
            return
        raw = None if self.average is None else self.objective.network.state_dict()
        words = self.place.words(self.budget.epochs)
        best = {"weights": self.network.state_dict(), "raw": raw, "words": words, "value": value}
        write_checkpoint(self.out / BEST, best)
        figure = f"{value:.4f} {self.objective.metric_unit} on the validation images"
        self.objective.save(self.network, self.out / "model", f"The weights of {words}: {figure}.")

    def _describe(self, finished: bool) -> Progress:
        return Progress(
            finished=finished,
            place=self.place.words(self.budget.epochs),
            best=self.best or self.place.words(self.budget.epochs),
            step=self.place.step,
            images_per_step=self._images_per_batch() * self.settings.accumulate,
            processes=self.agreement.world,
            precision=str(self.fabric._precision.precision),
            device=self.fabric.device.type,
            **self.stopwatch.state_dict(),
        )

    def _interrupt(self, signum: int, states: dict[str, Tensor] | None = None) -> NoReturn:
        """Save, and end the run for now.

        Raises:
            Interrupted: always.
        """
        self._save(states)
        where = self.place.words(self.budget.epochs)
        again = f"nextpixel train --out {self.out} --resume"
        raise Interrupted(f"interrupted after {where}; saved to {self.out / LAST}. Go on with: {again}", signum, together=True)

    def _refuse(self, loss: Tensor) -> NoReturn:
        """End a run whose loss is infinite, before the step that would spoil the weights.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"the loss is {loss.item()} at step {self.place.step}: training stopped; "
            f"{self.out / LAST} is the last good checkpoint; try a smaller --training.lr or --training.clip"
        )

    def _pause(self, done: int, total: int) -> None:
        """A place within validation where all processes may stop together.

        Raises:
            Interrupted: a signal has come to one of them; the validation is done again when the run goes on.
        """
        self.progress.part("validating", done, total)
        status = self.agreement.most(self.stop.signum)
        if status:
            self._interrupt(status)

    def _raise_if_stopped(self, *_: Any) -> None:
        """A place within drawing, which the first process does alone.

        Raises:
            _Stopped: a signal has come.
        """
        if self.stop.signum:
            raise _Stopped

    # --- small parts ---------------------------------------------------------------------------------------------------------

    def _status(self, loss: Tensor) -> int:
        """What this process reports to the others."""
        if not torch.isfinite(loss):
            return NOT_FINITE
        if self.stop.signum:
            return self.stop.signum
        # Only one clock counts: those of several processes differ.
        if self._is_first() and time.monotonic() - self.saved_at >= self.settings.save_every * 60:
            return SAVE
        by_clock = self.budget.seconds is not None and self.budget.elapsed >= self.budget.seconds
        return OVER if self._is_first() and by_clock else 0

    def _is_over(self) -> bool:
        return bool(self.agreement.most(self.budget.is_over(self.place.step))) if self.budget.seconds else self._has_all_steps()

    def _has_all_steps(self) -> bool:
        return self.budget.is_over(self.place.step)

    def _learning_rate(self) -> float:
        rate = self.budget.learning_rate(self.place.step)
        if self.budget.seconds is None or self.agreement.world == 1:
            return rate
        return self.agreement.sums(torch.tensor(rate if self._is_first() else 0.0)).item()

    def _note(self, loss: Tensor, epoch: int) -> None:
        """The loss of a step, for the table, the bar and the line of the next validation."""
        step, every = self.place.step, min(10, self.budget.steps or 10)
        if step % every == 0:
            mean = self.agreement.sums(loss).item() / self.agreement.world
            if self._is_first():
                rate = self.optimizer.param_groups[0]["lr"]
                figures = {"lr": rate, self.objective.loss_name: mean, **self.objective.figures()}
                self.metrics.log(figures, step - 1, epoch)
        self.losses += torch.tensor([loss.item(), 1.0], dtype=torch.float64)
        self.progress.step(self.place, self.budget, step - self.begun_at, loss.item())

    def _images_per_batch(self) -> int:
        return self.settings.batch_size * self.agreement.world

    def _is_first(self) -> bool:
        return self.agreement.rank == 0
