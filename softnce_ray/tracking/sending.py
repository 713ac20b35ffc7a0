"""Sending: carries records out in threads of its own, in order and until they are done or refused for good."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from softnce_ray.store import Store
from softnce_ray.tracking.credentials import masked
from softnce_ray.tracking.faults import fault_of, reason
from softnce_ray.tracking.journal import Entry, Journal
from softnce_ray.tracking.records import OF_A_TRIAL, Record
from softnce_ray.tracking.runs import Runs

_FIRST_PAUSE, _LONGEST_PAUSE, _LONGEST_DOUBT = 0.5, 30.0, 5.0
_TRIES = 10
"""So often a record may fail while others could be written; then it is the record."""
_WINDOW = 200
_MOST_METRICS = 1_000


@dataclass(frozen=True)
class Unsent:
    """What of a study is not in MLflow: how many records wait on disk, a line for each that was refused for good,
    and a line for each trouble on the way. True when anything is missing."""

    records: int = 0
    refused: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.records or self.refused)


class _Stopped(Exception):
    """Nobody wants it to go on."""


class Sender:
    """Sends the records of one study. Those of one trial go out in their order; those of several trials at the same
    time, where the store can take that; all others wait for all before them."""

    def __init__(self, store: Store, runs: Runs, journal: Journal | None, *, lanes: int) -> None:
        self._store, self._runs, self._journal, self._lanes = store, runs, journal, lanes
        self._queue: deque[Entry] = deque()
        self._state = threading.Condition()
        self._stop = threading.Event()
        self._moved = time.monotonic()
        self._longest_pause = _LONGEST_PAUSE
        self._trouble = ""
        self._aside: set[str | None] = set()  # files of records that were refused
        self.refused: list[str] = []
        self.problems: list[str] = []
        self._thread = threading.Thread(target=self._work, name="mlflow-sender", daemon=True)
        self._thread.start()

    def put(self, entries: Iterable[Entry]) -> None:
        with self._state:
            self._queue.extend(entries)
            self._state.notify_all()

    @property
    def trouble(self) -> str:
        """What the last try came to, "" when it succeeded."""
        return self._trouble

    def wait(self, patience: float | None) -> bool:
        """Until everything is sent (True), or nothing went out for `patience` seconds (False)."""
        with self._state:
            self._moved = time.monotonic()
            if patience is not None:
                self._longest_pause = max(min(_LONGEST_PAUSE, patience / 5), _FIRST_PAUSE)
            try:
                while self._queue:
                    left = None if patience is None else self._moved + patience - time.monotonic()
                    if (left is not None and left <= 0) or not self._thread.is_alive():
                        return False
                    self._state.wait(1.0 if left is None else min(left, 1.0))
                return True
            finally:
                self._longest_pause = _LONGEST_PAUSE

    def stop(self) -> list[Entry]:
        """Send no more; returns what is left. A request that is under way is not waited for."""
        self._stop.set()
        with self._state:
            self._state.notify_all()
            if self._queue:
                self.problems.append(self._trouble or "no answer in time")
            return list(self._queue)

    def _work(self) -> None:
        with contextlib.suppress(_Stopped):
            while True:
                with self._state:
                    while not self._queue and not self._stop.is_set():
                        self._state.wait()
                    window = self._window()
                self._check()
                self._send(window)
                self._check()
                self._done(window)

    def _window(self) -> list[Entry]:
        """The next records that need no others before them."""
        window: list[Entry] = []
        for entry in self._queue:
            alone = entry.record.kind not in OF_A_TRIAL
            if window and (alone or len(window) == _WINDOW):
                break
            window.append(entry)
            if alone:
                break
        return window

    def _send(self, window: Sequence[Entry]) -> None:
        lanes: dict[object, list[Record]] = {}
        for entry in window:
            record = entry.record
            lanes.setdefault(record.key if record.kind in OF_A_TRIAL else None, []).append(record)
        waiting = deque(lanes.values())
        if len(waiting) == 1 or self._lanes == 1:
            for records in waiting:
                self._deliver_all(records)
            return
        # Not an executor: at its end the interpreter would wait for a request that hangs.
        threads = [
            threading.Thread(target=self._drain, args=(waiting,), name="mlflow-lane", daemon=True)
            for _ in range(min(self._lanes, len(waiting)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _drain(self, waiting: deque[list[Record]]) -> None:
        with contextlib.suppress(_Stopped, IndexError):
            while True:
                self._deliver_all(waiting.popleft())

    def _deliver_all(self, records: Sequence[Record]) -> None:
        for batch in _batches(records):
            self._deliver(batch)

    def _deliver(self, batch: Sequence[Record]) -> None:
        pause, doubts = _FIRST_PAUSE, 0
        while True:
            self._check()
            try:
                self._runs.apply(batch)
            except Exception as error:
                why = masked(reason(error), self._store)
                fault = fault_of(error)
                if fault == "unclear" and self._others_go():
                    doubts += 1
                if fault == "refused" or doubts == _TRIES:
                    self._give_up(batch, why)
                    return
                self._trouble = why
                longest = self._longest_pause if fault == "transient" else min(_LONGEST_DOUBT, self._longest_pause)
                self._stop.wait(min(pause, longest))
                pause *= 2
            else:
                self._alive()
                return

    def _others_go(self) -> bool:
        """Whether MLflow takes writes now."""
        try:
            self._runs.ping()
        except Exception:
            return False
        self._alive()
        return True

    def _give_up(self, batch: Sequence[Record], why: str) -> None:
        if len(batch) > 1:  # perhaps only one of them is to blame
            for record in batch:
                self._deliver([record])
            return
        (record,) = batch
        with contextlib.suppress(Exception):
            self._runs.give_up(record, why)
        self._runs.forget(record)
        with self._state:
            self.refused.append(f"{record}: {why}")
            try:
                if self._journal is not None:
                    self._journal.refuse(record, why)
            except OSError as error:
                self.problems.append(f"{record} was refused and could not be put aside: {reason(error)}")
            self._aside.add(record.files)
        self._alive()

    def _done(self, window: Sequence[Entry]) -> None:
        """Note the position first: files that are gone would be missed if their record were sent again. MLflow is told
        too, but of epochs, which it recognises."""
        ends = [entry.end for entry in window if entry.end is not None]
        if self._journal is not None and ends and any(entry.record.kind != "epoch" for entry in window):
            with contextlib.suppress(Exception):  # it has one word more, no less
                self._runs.note(self._journal.position(ends[-1]))
        with self._state:
            try:
                if self._journal is not None and ends:
                    self._journal.note(ends[-1], durable=any(entry.record.files for entry in window))
            except OSError as error:
                self._tell_once(
                    f"the journal's position cannot be noted ({reason(error)}): it is sent again after a crash"
                )
            else:
                for entry in window:
                    if self._journal is not None and entry.record.files not in self._aside:
                        self._journal.drop(entry.record)
            for _ in window:
                self._queue.popleft()
            self._moved = time.monotonic()
            self._state.notify_all()

    def _tell_once(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def _alive(self) -> None:
        with self._state:
            self._moved = time.monotonic()
            self._trouble = ""

    def _check(self) -> None:
        if self._stop.is_set():
            raise _Stopped


def _batches(records: Sequence[Record]) -> list[list[Record]]:
    """In their order; epochs that follow one another together, as many as MLflow takes at once."""
    batches: list[list[Record]] = []
    size = 0
    for record in records:
        more = len(record.payload["metrics"]) if record.kind == "epoch" else _MOST_METRICS
        if batches and record.kind == batches[-1][-1].kind == "epoch" and size + more <= _MOST_METRICS:
            batches[-1].append(record)
            size += more
        else:
            batches.append([record])
            size = more
    return batches
