"""Where the figures of a run go: metrics.csv always, and a logger by choice."""

import csv
import io
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from nextpixel.errors import InputError
from nextpixel.files import write_aside

METRICS = "metrics.csv"
LOGGERS = {"tensorboard": "tensorboardX", "wandb": "wandb"}  # and the package that each needs


class Logger(Protocol):
    """What receives figures beside metrics.csv."""

    def log(self, values: dict[str, float], step: int) -> None: ...
    def close(self) -> None: ...


class Metrics:
    """The figures of a run as a table: a row of step, epoch and some of the columns.

    The rows are kept as text, which a checkpoint stores: a run that goes on from it begins with the rows that were there, and
    not with those of steps that it takes again.

    Args:
        path: of metrics.csv.
        columns: beside step and epoch.
        logger: gets the same.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "metrics.csv"
        >>> metrics = Metrics(path, ["loss"])
        >>> metrics.begin("")
        >>> metrics.log({"loss": 0.5}, step=9, epoch=0)
        >>> path.read_text().splitlines()
        ['step,epoch,loss', '9,0,0.5']
    """

    def __init__(self, path: Path, columns: list[str], logger: Logger | None = None) -> None:
        self.path, self.columns, self.logger = path, ["step", "epoch", *columns], logger
        self.text = ""

    def begin(self, text: str) -> None:
        """Start with these rows, or with none.

        Raises:
            InputError: the file cannot be written.
        """
        self.text = text or self._line(self.columns)
        with write_aside(self.path) as aside:
            aside.write_text(self.text, encoding="utf-8", newline="")

    def log(self, values: dict[str, float], step: int, epoch: int) -> None:
        """Add a row.

        Raises:
            InputError: the file cannot be written.
        """
        row = {"step": step, "epoch": epoch, **values}
        line = self._line([row.get(name, "") for name in self.columns])
        self.text += line
        try:
            # One call of the system for one row: a process that is killed leaves whole rows.
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(file, line.encode())
            finally:
                os.close(file)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}") from error
        if self.logger is not None:
            self.logger.log(values, step)

    def close(self) -> None:
        """Let the logger finish."""
        if self.logger is not None:
            self.logger.close()

    @staticmethod
    def _line(values: list[Any]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        return text.getvalue()


def require_logger(name: str) -> None:
    """Make sure that a logger is installed.

    Raises:
        InputError: it is not; the message says how to install it.

    Example:
        >>> require_logger("none")
    """
    package = LOGGERS.get(name)
    if package is not None and find_spec(package) is None:
        raise InputError(f'--training.log {name} needs the package {package}: pip install "nextpixel[{name}]"')


def make_logger(name: str, out: Path, config: dict[str, Any]) -> Logger | None:
    """The logger of a run: "none", "tensorboard" (RUN/tensorboard) or "wandb" (Weights & Biases, one run for each run folder)."""
    if name == "tensorboard":
        return TensorBoard(out / "tensorboard")
    return WandB(out, config) if name == "wandb" else None


class TensorBoard:
    """Event files for TensorBoard."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run at Weights & Biases, or offline, as its own settings (WANDB_MODE, WANDB_PROJECT, ...) say."""

    def __init__(self, out: Path, config: dict[str, Any]) -> None:
        import wandb

        project = os.environ.get("WANDB_PROJECT", "nextpixel")
        self._run = wandb.init(project=project, name=out.name, dir=str(out), config=config, resume="allow")

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()
