"""How a running study shows itself: a live table on a terminal, a line for each event elsewhere."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from softnce_ray.results import TrialKey
from softnce_ray.study.estimate import how_long


class Display(Protocol):
    """What a study tells while it runs."""

    def say(self, text: str) -> None: ...

    def progress(self, done: int, total: int, seconds_left: float | None = None) -> None: ...

    def started(self, key: TrialKey) -> None: ...

    def epoch(self, key: TrialKey, metrics: Mapping[str, float], epochs: int) -> None: ...

    def ended(self, key: TrialKey, outcome: str, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def display_for(console: Console) -> Display:
    """A live table where there is a terminal, plain lines where there is none."""
    return LiveTable(console) if console.is_terminal else Lines(console)


def title(key: TrialKey) -> str:
    """A trial's name for people."""
    which = f"seed {key.seed}" if key.phase == "confirm" else key.identity[:6]
    return f"{key.arm}/{key.language} {key.phase} {which}"


class Lines:
    """A line for each trial's start, epochs and end, with the time since the beginning."""

    def __init__(self, console: Console) -> None:
        self._console, self._since = console, time.monotonic()
        self._total = self._done = 0
        self._left: float | None = None

    def say(self, text: str) -> None:
        seconds = time.monotonic() - self._since
        self._console.print(f"[{seconds:6.1f} s] {text}", markup=False, highlight=False, soft_wrap=True)

    def progress(self, done: int, total: int, seconds_left: float | None = None) -> None:
        self._done, self._total, self._left = done, total, seconds_left

    def started(self, key: TrialKey) -> None:
        pass

    def epoch(self, key: TrialKey, metrics: Mapping[str, float], epochs: int) -> None:
        self.say(
            f"{title(key)}: epoch {metrics['epoch']:.0f}/{epochs}, loss {metrics['train_loss']:.3f}, valid MRR "
            f"{metrics['valid_mrr']:.4f}, {metrics['pairs_per_second']:,.0f} pairs/s"
        )

    def ended(self, key: TrialKey, outcome: str, metrics: Mapping[str, float]) -> None:
        left = f", about {how_long(self._left)} left" if self._left else ""
        self.say(f"{title(key)}: {outcome}{_scores(metrics)}{left} [{self._done}/{self._total}]")

    def close(self) -> None:
        pass


@dataclass
class _Row:
    state: str
    epoch: str = ""
    loss: str = ""
    valid: str = ""
    speed: str = ""


class LiveTable:
    """The trials that run and the latest that ended, redrawn in place."""

    _STYLES = {"running": "cyan", "finished": "green", "failed": "red", "stopped early": "yellow"}  # noqa: RUF012

    def __init__(self, console: Console) -> None:
        self._console, self._since = console, time.monotonic()
        self._rows: dict[TrialKey, _Row] = {}
        self._total = self._done = 0
        self._end: datetime.datetime | None = None
        self._live: Live | None = None

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    def progress(self, done: int, total: int, seconds_left: float | None = None) -> None:
        self._done, self._total = done, total
        now = datetime.datetime.now()
        self._end = now + datetime.timedelta(seconds=seconds_left) if seconds_left and done < total else None
        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=4, get_renderable=self._table)
            self._live.start()

    def started(self, key: TrialKey) -> None:
        self._rows[key] = _Row("running")

    def epoch(self, key: TrialKey, metrics: Mapping[str, float], epochs: int) -> None:
        self._rows[key] = _Row(
            "running",
            f"{metrics['epoch']:.0f}/{epochs}",
            f"{metrics['train_loss']:.3f}",
            f"{metrics['valid_mrr']:.4f}",
            f"{metrics['pairs_per_second']:,.0f}",
        )

    def ended(self, key: TrialKey, outcome: str, metrics: Mapping[str, float]) -> None:
        row = self._rows.pop(key, _Row(outcome))  # moved to the end: the latest stand last
        row.state = outcome
        self._rows[key] = row
        if outcome.startswith("failed"):
            self.say(f"{title(key)}: {outcome}")

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _table(self) -> Table:
        seconds = int(time.monotonic() - self._since)
        ends = "" if self._end is None else f", ends about {_at(self._end)}"
        table = Table(
            title=f"{self._done} of {self._total} trials, {seconds // 60}:{seconds % 60:02d}{ends}",
            title_justify="left",
        )
        for name in ("trial", "state", "epoch", "loss", "valid MRR", "pairs/s"):
            table.add_column(name, justify="left" if name in ("trial", "state") else "right", no_wrap=True)
        running = [item for item in self._rows.items() if item[1].state == "running"]
        ended = [item for item in self._rows.items() if item[1].state != "running"]
        for key, row in (*ended[-8:], *running):
            state = row.state.split(":")[0]
            table.add_row(
                title(key), state, row.epoch, row.loss, row.valid, row.speed, style=self._STYLES.get(state, "")
            )
        return table


def _at(moment: datetime.datetime) -> str:
    """A time for people, with its day where that is not today."""
    return f"{moment:%H:%M}" if moment.date() == datetime.date.today() else f"{moment:%a %d %b %H:%M}"


def _scores(metrics: Mapping[str, Any]) -> str:
    names = {"best_valid_mrr": "valid MRR", "test_mrr": "test MRR"}
    return "".join(f", {text} {metrics[name]:.4f}" for name, text in names.items() if name in metrics)
