"""The attempts of a trial: each has a number and a folder of its own, so that an old one cannot harm a new one.

A worker that was cut off from the driver may train on while its trial runs elsewhere. What it still writes lies in
the folder of its own attempt. Which checkpoint an attempt goes on from is decided by the driver when it begins, and
written down: what appears later in the folder of an attempt that has been replaced is never looked at.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from softnce_ray import storage
from softnce_ray.checkpoint import CHECKPOINT_FILE, read_progress
from softnce_ray.results import MODEL_FOLDER
from softnce_ray.storage import Location
from softnce_ray.study.patience import Trying, at_once

_BOOK = "attempts"
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
    """The attempts of all trials of a study, kept with its checkpoints: `attempts/<identity>.jsonl`, a line each.

    One process at a time writes: the driver that holds the study. Every method raises StorageError where the
    checkpoints lie in an object store that cannot be used, and OSError where on a disk.

    Args:
      trying: calls what uses the storage; one that is away for a while may be tried again.
    """

    def __init__(self, root: Location | Path, trying: Trying = at_once) -> None:
        self._root, self._trying = Location.at(root), trying

    def __str__(self) -> str:
        return str(self._root)

    def begin(self, identity: str, name: str, launch: str) -> Attempt:
        """Write down a new attempt of a trial, which replaces all before it.

        Args:
          identity: the trial's.
          name: of the trial, for people who look into the folder.
          launch: folder of the present launch.
        """
        return self._trying(lambda: self._begin(identity, name, launch))

    def _begin(self, identity: str, name: str, launch: str) -> Attempt:
        before = self._read(identity)
        resume, epoch = self._newest(before)
        number = before[-1].number + 1 if before else 1
        attempt = Attempt(number, f"{launch}/{folder_name(name, identity, number)}", resume, epoch)
        lines = [json.dumps(asdict(each)) for each in (*before, attempt)]
        storage.write(self._book(identity), "".join(f"{line}\n" for line in lines).encode())
        return attempt

    def kept(self, identity: str) -> int:
        """The epochs of a trial that its next attempt need not make again; 0 where it would begin anew."""
        return self._trying(lambda: self._newest(self._read(identity))[1])

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

    def model(self, identity: str) -> Location | None:
        """A finished trial's model, or None."""
        return self._trying(lambda: self._model_of(self._read(identity)))

    @contextlib.contextmanager
    def model_files(self, identity: str) -> Iterator[Path | None]:
        """A finished trial's model as a folder of this machine, or None."""
        if (place := self.model(identity)) is None:
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

    def tidy(self, identity: str) -> None:
        """Remove the checkpoints of a trial that has ended and is recorded; its model, if it has one, stays, as does
        what cannot be removed."""
        with contextlib.suppress(OSError):
            attempts = self._read(identity)
            model = self._model_of(attempts)
            for attempt in attempts:
                if model is None or attempt is not attempts[-1]:
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

    def _book(self, identity: str) -> Location:
        if not identity.isalnum():  # one that a tracking store gave may be anything
            raise ValueError(f"expected the identity of a trial, got {identity!r}")
        return self._root / _BOOK / f"{identity}.jsonl"

    def _read(self, identity: str) -> list[Attempt]:
        return list(_attempts(storage.read(self._book(identity)) or b""))


def folder_name(name: str, identity: str, number: int) -> str:
    """Name of an attempt's folder."""
    return f"{name}-{identity}-{number}"


def _attempts(content: bytes) -> Iterator[Attempt]:
    for line in content.decode("utf-8", errors="replace").splitlines():
        try:
            yield Attempt(**json.loads(line))
        except (ValueError, TypeError):  # cut off by a crash: it belongs to an attempt that never began
            continue
