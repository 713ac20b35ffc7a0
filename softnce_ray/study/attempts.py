"""The attempts of a training: each has a number and a folder of its own, so that an old one cannot harm a new one.

A worker that was cut off from the driver may train on while its trial runs elsewhere. What it still writes lies in
the folder of its own attempt. Which checkpoint an attempt goes on from is decided by the driver when it begins, and
written down: what appears later in the folder of an attempt that has been replaced is never looked at.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from softnce_ray import storage
from softnce_ray.checkpoint import CHECKPOINT_FILE, read_progress
from softnce_ray.results import MODEL_FOLDER
from softnce_ray.storage import Location
from softnce_ray.study.finished import RESULT_FILE, Finished, read_finished
from softnce_ray.study.patience import Trying, at_once

BOOK = "attempts"
"""Folder of what is written down."""

_CHECKPOINT = "checkpoint_"  # Tune's


@dataclass(frozen=True)
class Attempt:
    """One attempt; `folder` is where Tune keeps its checkpoints and `resume` a checkpoint, both below the place of the
    study's checkpoints."""

    number: int
    folder: str
    resume: str | None = None
    epoch: int = 0


class Attempts:
    """The attempts of all trainings of a study, kept with its checkpoints: `attempts/<training>.jsonl`, a line each.

    A training is that of all trials of one identity and phase (`TrialKey.training`), whatever their arms. One of them
    at a time makes attempts; what an earlier one has finished, the others take.

    One process at a time writes: the driver that holds the study. Every method raises StorageError where the
    checkpoints lie in an object store that cannot be used, and OSError where on a disk.

    Args:
      trying: calls what uses the storage; one that is away for a while may be tried again.
    """

    def __init__(self, root: Location | Path, trying: Trying = at_once) -> None:
        self._root, self._trying = Location.at(root), trying

    def __str__(self) -> str:
        return str(self._root)

    def begin(self, training: str, name: str, launch: str) -> Attempt:
        """Write down a new attempt of a training, which replaces all before it.

        Args:
          training: of the trial.
          name: of the trial, for people who look into the folder.
          launch: folder of the present launch.
        """
        return self._trying(lambda: self._begin(training, name, launch))

    def _begin(self, training: str, name: str, launch: str) -> Attempt:
        before = self._read(training)
        resume, epoch = self._newest(before)
        number = before[-1].number + 1 if before else 1
        attempt = Attempt(number, f"{launch}/{folder_name(name, training, number)}", resume, epoch)
        lines = [json.dumps(asdict(each)) for each in (*before, attempt)]
        storage.write(self._book(training), "".join(f"{line}\n" for line in lines).encode())
        return attempt

    def kept(self, training: str) -> int:
        """The epochs of a training that its next attempt need not make again; 0 where it would begin anew."""
        return self._trying(lambda: self._newest(self._read(training))[1])

    def finished(self, training: str) -> tuple[Attempt, str, Finished] | None:
        """The last attempt, the name of the checkpoint with its result, and the result; None where it has none."""
        return self._trying(lambda: self._finished(self._read(training), _identity(training)))

    def _finished(self, attempts: list[Attempt], identity: str) -> tuple[Attempt, str, Finished] | None:
        for checkpoint in self._checkpoints(attempts[-1]) if attempts else ():
            if (finished := read_finished(checkpoint, identity)) is not None:
                return attempts[-1], checkpoint.name, finished
        return None

    def resumed(self, attempt: Attempt) -> Location | None:
        """The checkpoint that an attempt goes on from, if any."""
        return None if attempt.resume is None else self._root / attempt.resume

    def checkpoint(self, attempt: Attempt, name: str) -> Location:
        """A checkpoint of an attempt, by the name that Tune gave it."""
        return self._root / attempt.folder / name

    @contextlib.contextmanager
    def files(self, attempt: Attempt, name: str, wanted: Sequence[str]) -> Iterator[Path]:
        """A folder of this machine with those of the wanted files that a checkpoint has; see `storage.on_disk`."""
        with self._here(self.checkpoint(attempt, name), wanted) as folder:
            yield folder

    def model(self, training: str) -> Location | None:
        """The model of a finished training, or None."""
        return self._trying(lambda: self._model_of(self._read(training)))

    @contextlib.contextmanager
    def model_files(self, training: str) -> Iterator[Path | None]:
        """The model of a finished training as a folder of this machine, or None."""
        if (place := self.model(training)) is None:
            yield None
            return
        with self._here(place) as folder:
            yield folder

    @contextlib.contextmanager
    def _here(self, place: Location, wanted: Sequence[str] | None = None) -> Iterator[Path]:
        with contextlib.ExitStack() as held:
            yield self._trying(lambda: held.enter_context(storage.on_disk(place, wanted)))

    def _model_of(self, attempts: list[Attempt]) -> Location | None:
        for checkpoint in self._checkpoints(attempts[-1]) if attempts else ():
            if "settings.json" in storage.names(checkpoint / MODEL_FOLDER):
                return checkpoint / MODEL_FOLDER
        return None

    def _result_of(self, attempts: list[Attempt]) -> Location | None:
        for checkpoint in self._checkpoints(attempts[-1]) if attempts else ():
            if RESULT_FILE in storage.names(checkpoint):
                return checkpoint
        return self._model_of(attempts)  # of an earlier version, which wrote no result

    def tidy(self, training: str) -> None:
        """Remove the checkpoints of a training that has ended and is recorded; its result, if it has one, stays, as
        does what cannot be removed."""
        with contextlib.suppress(OSError):
            attempts = self._read(training)
            result = self._result_of(attempts)
            for attempt in attempts:
                if result is None or attempt is not attempts[-1]:
                    storage.remove(self._root / attempt.folder)
                    continue
                for checkpoint in self._checkpoints(attempt):
                    if CHECKPOINT_FILE in storage.names(checkpoint):
                        storage.remove(checkpoint)

    def _checkpoints(self, attempt: Attempt) -> Iterator[Location]:
        """Those of an attempt, the newest first."""
        folder = self._root / attempt.folder
        for name in reversed(storage.names(folder)):
            if name.startswith(_CHECKPOINT):
                yield folder / name

    def _newest(self, attempts: list[Attempt]) -> tuple[str | None, int]:
        """The newest whole checkpoint of the last attempt, or else the one that it had gone on from."""
        for attempt in attempts[-1:]:
            for checkpoint in self._checkpoints(attempt):
                progress = read_progress(checkpoint)
                if progress is not None:
                    return f"{attempt.folder}/{checkpoint.name}", progress.epoch
            if attempt.resume is not None and (progress := read_progress(self._root / attempt.resume)) is not None:
                return attempt.resume, progress.epoch
        return None, 0

    def _book(self, training: str) -> Location:
        if not re.fullmatch(r"[0-9A-Za-z]+(-search)?", training):  # one that a tracking store gave may be anything
            raise ValueError(f"expected a training of trials, got {training!r}")
        return self._root / BOOK / f"{training}.jsonl"

    def _read(self, training: str) -> list[Attempt]:
        return list(_attempts(storage.read(self._book(training)) or b""))


def folder_name(name: str, training: str, number: int) -> str:
    """Name of an attempt's folder."""
    return f"{name}-{_identity(training)}-{number}"


def _identity(training: str) -> str:
    return training.partition("-")[0]


def _attempts(content: bytes) -> Iterator[Attempt]:
    for line in content.decode("utf-8", errors="replace").splitlines():
        try:
            yield Attempt(**json.loads(line))
        except (ValueError, TypeError):  # cut off by a crash: it belongs to an attempt that never began
            continue
