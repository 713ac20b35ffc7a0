"""When something happens to a study, and what: drawn by chance, half at any time, half at an awkward moment."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from killed_study import EPOCHS, TRIALS
from watching import Command

Kind = Literal["worker", "driver", "server", "all", "pause", "folder", "disk", "copy", "fork", "torn"]
KILLS: tuple[Kind, ...] = ("worker", "driver", "server")
DAMAGES: tuple[Kind, ...] = ("all", "pause", "folder", "disk", "copy", "fork", "torn")
KINDS = KILLS + DAMAGES
FOLDERS = ("ray/killed", "prepared", "spool/killed", "ray", "spool")
TORN = ("the last record cut", "half of the journal cut", "no position", "a torn position", "no files", "no journal")


@dataclass(frozen=True)
class Kill:
    """A kind and a moment: `reached` is asked again and again while the launch runs.

    Attributes:
      pause: seconds before a killed server is started again, a stopped process goes on, or a full disk has room again.
      what: what is removed or torn; `driver` or `family`, whichever is stopped.
      dies: whether the driver is killed in the same moment.
    """

    kind: Kind
    moment: str
    reached: Callable[[Command], bool] = field(compare=False)
    pause: float = 0.0
    what: str = ""
    dies: bool = False

    def __str__(self) -> str:
        dead = " and the driver killed" if self.dies else ""
        text: str
        match self.kind:
            case "worker" | "driver":
                text = self.kind
            case "server":
                text = f"server, back after {self.pause:.1f} s"
            case "all":
                text = f"driver, workers and server at once, server back after {self.pause:.1f} s"
            case "pause":
                text = f"{self.what} stopped for {self.pause:.0f} s"
            case "folder":
                text = f"{self.what} removed{dead}"
            case "disk":
                text = f"disk full for {self.pause:.0f} s"
            case "copy":
                text = "store copied, the original ends first"
            case "fork":
                text = "driver killed, store copied, the copy ends first"
            case "torn":
                text = f"driver killed, spool torn: {self.what}"
        return f"{text}: {self.moment}"

    @property
    def ends_the_launch(self) -> bool:
        """Whether the driver is dead afterwards."""
        return self.dies or self.kind in ("driver", "all", "fork", "torn")


def after_training(seconds: float) -> tuple[str, Callable[[Command], bool]]:
    def reached(run: Command) -> bool:
        return run.training_since is not None and time.monotonic() >= run.training_since + seconds

    return f"{seconds:.2f} s after the first trial started", reached


def after_start(seconds: float) -> tuple[str, Callable[[Command], bool]]:
    return f"{seconds:.2f} s after the command", lambda run: time.monotonic() >= run.began + seconds


def checkpoint(number: int, later: float) -> tuple[str, Callable[[Command], bool]]:
    def reached(run: Command) -> bool:
        seen = sorted(run.checkpoints.values())
        return len(seen) >= number and time.monotonic() >= seen[number - 1] + later

    return f"{later * 1000:.0f} ms after checkpoint {number}", reached


def last_epoch(number: int, later: float) -> tuple[str, Callable[[Command], bool]]:
    """Between the last epoch of a trial and its end, when the result is written and recorded."""

    def reached(run: Command) -> bool:
        seen = sorted(at for path, at in run.checkpoints.items() if path.parent.name.endswith(f"{EPOCHS - 1}"))
        return len(seen) >= number and time.monotonic() >= seen[number - 1] + later

    return f"{later * 1000:.0f} ms after the last epoch of trial {number}", reached


def line(text: str, number: int, later: float) -> tuple[str, Callable[[Command], bool]]:
    at: list[float] = []

    def reached(run: Command) -> bool:
        if not at and sum(text in each for each in run.lines) >= number:
            at.append(time.monotonic())
        return bool(at) and time.monotonic() >= at[0] + later

    return f"{later:.2f} s after it said {text!r} ({number})", reached


def mlflow_writes(number: int) -> tuple[str, Callable[[Command], bool]]:
    """In the middle of a transaction: SQLite keeps its journal beside the database for that long."""
    seen: list[float] = []

    def reached(run: Command) -> bool:
        if run.training_since is not None and Path(f"{run.place.server.folder}/mlflow.db-journal").exists():
            seen.append(time.monotonic())
        return len(seen) >= number

    return f"while MLflow is written (sighting {number})", reached


def a_kill(kind: Kind, chance: random.Random, whole: float, training: float) -> Kill:
    """Draw a kill point: half of them anywhere in time, half at an awkward moment.

    `whole`, `training`: seconds of the undisturbed launch, and of what came after its first trial's start.
    """
    later = chance.choice([0.0, chance.uniform(0, 0.03), chance.uniform(0, 0.5)])
    of_driver = kind in ("driver", "all", "fork", "torn")
    everywhere = after_start(chance.uniform(0.5, whole)) if of_driver else after_training(chance.uniform(0, training))
    awkward = [
        checkpoint(chance.randint(1, TRIALS * EPOCHS - 1), later),
        last_epoch(chance.randint(1, TRIALS), later),
        mlflow_writes(chance.randint(1, 30)),
    ]
    if of_driver:
        awkward += [line("preparing", 1, chance.uniform(0, 4)), line("finished", TRIALS, chance.uniform(0, 1.5))]
    moment, reached = chance.choice([everywhere] * len(awkward) + awkward)
    # One outage in three is long: it may outlast the study and the launch's patience.
    pause = chance.choice([chance.uniform(0.5, 6), chance.uniform(0.5, 6), chance.uniform(20, 50)])
    what, dies = "", False
    match kind:
        case "pause":
            what, pause = chance.choice(["driver", "family"]), chance.choice([5.0, 60.0])
        case "folder":
            what, dies = chance.choice(FOLDERS), chance.random() < 0.3
        case "torn":
            what = chance.choice(TORN)
    return Kill(kind, moment, reached, pause, what, dies)
