"""The attempts of a trial: each has a number and a folder of its own, so that an old one cannot harm a new one.

A worker that was cut off from the driver may train on while its trial runs elsewhere. What it still writes lies in
the folder of its own attempt. Which checkpoint an attempt goes on from is decided by the driver when it begins, and
written down: what appears later in the folder of an attempt that has been replaced is never looked at.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from softnce_ray.checkpoint import CHECKPOINT_FILE, read_progress
from softnce_ray.results import MODEL_FOLDER

_BOOK = "attempts"


@dataclass(frozen=True)
class Attempt:
    """One attempt; `folder` is where Tune keeps its checkpoints and `resume` a checkpoint, both below the study's
    folder."""

    number: int
    folder: str
    resume: str | None = None
    epoch: int = 0


class Attempts:
    """The attempts of all trials of a study, kept in the study's folder: `attempts/<identity>.jsonl`, a line each.

    One process at a time writes: the driver that holds the study.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def begin(self, identity: str, name: str, launch: str) -> Attempt:
        """Write down a new attempt of a trial, which replaces all before it.

        Args:
          identity: the trial's.
          name: of the trial, for people who look into the folder.
          launch: folder of the present launch.
        """
        before = self._read(identity)
        resume, epoch = self._newest(before)
        number = before[-1].number + 1 if before else 1
        attempt = Attempt(number, f"{launch}/{folder_name(name, identity, number)}", resume, epoch)
        book = self._book(identity)
        book.parent.mkdir(parents=True, exist_ok=True)
        with book.open("a", encoding="utf-8") as file:
            # A line that was cut off by a crash belongs to an attempt that never began.
            file.write(("" if _ends_with_newline(book) else "\n") + json.dumps(asdict(attempt)) + "\n")
        return attempt

    def path(self, attempt: Attempt) -> Path | None:
        """The folder of the checkpoint that an attempt goes on from, if any."""
        return None if attempt.resume is None else self._root / attempt.resume

    def model(self, identity: str) -> Path | None:
        """The folder of a finished trial's model, or None."""
        attempts = self._read(identity)
        if not attempts:
            return None
        found = (self._root / attempts[-1].folder).glob(f"checkpoint_*/{MODEL_FOLDER}/settings.json")
        return max((path.parent for path in found), key=lambda path: path.parent.name, default=None)

    def tidy(self, identity: str) -> None:
        """Remove the checkpoints of a trial that has ended and is recorded; its model, if it has one, stays."""
        model = self.model(identity)
        for attempt in self._read(identity):
            folder = self._root / attempt.folder
            if model is None or not model.is_relative_to(folder):
                shutil.rmtree(folder, ignore_errors=True)
                continue
            for checkpoint in folder.glob(f"checkpoint_*/{CHECKPOINT_FILE}"):
                shutil.rmtree(checkpoint.parent, ignore_errors=True)

    def _newest(self, attempts: list[Attempt]) -> tuple[str | None, int]:
        """The newest whole checkpoint of the last attempt, or else the one that it had gone on from."""
        for attempt in attempts[-1:]:
            for folder in sorted((self._root / attempt.folder).glob("checkpoint_*"), reverse=True):
                progress = read_progress(folder)
                if progress is not None:
                    return str(folder.relative_to(self._root)), progress.epoch
            if attempt.resume is not None and (progress := read_progress(self._root / attempt.resume)) is not None:
                return attempt.resume, progress.epoch
        return None, 0

    def _book(self, identity: str) -> Path:
        if not identity.isalnum():  # one that a tracking store gave may be anything
            raise ValueError(f"expected the identity of a trial, got {identity!r}")
        return self._root / _BOOK / f"{identity}.jsonl"

    def _read(self, identity: str) -> list[Attempt]:
        return list(_attempts(self._book(identity)))


def folder_name(name: str, identity: str, number: int) -> str:
    """Name of an attempt's folder."""
    return f"{name}-{identity}-{number}"


def _attempts(book: Path) -> Iterator[Attempt]:
    if not book.exists():
        return
    for line in book.read_text(encoding="utf-8").splitlines():
        try:
            yield Attempt(**json.loads(line))
        except (ValueError, TypeError):
            continue


def _ends_with_newline(file: Path) -> bool:
    size = os.path.getsize(file)
    if size == 0:
        return True
    with file.open("rb") as opened:
        opened.seek(-1, os.SEEK_END)
        return opened.read(1) == b"\n"
