"""Records: what is to be written to MLflow, as plain data that a file can keep."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from softnce_ray.results import TrialKey

OF_A_TRIAL = frozenset({"trial_started", "epoch", "trial_ended"})
"""Kinds that concern the run of one trial alone: those of different trials may go out in any order."""


@dataclass(frozen=True)
class Record:
    """One thing to write. `at` is when it happened, in milliseconds; `payload` is JSON; `files`, where there are
    any, names the folder of the journal that holds what goes with it."""

    kind: str
    at: int
    payload: dict[str, Any]
    files: str | None = None

    @property
    def key(self) -> TrialKey:
        """Of the trial that the record is about.

        Raises:
          KeyError: it is about none.
        """
        arm, language, phase, seed, identity = self.payload["key"]
        return TrialKey(arm, language, phase, int(seed), identity)

    def line(self) -> str:
        """As a line of JSON, without its end."""
        kept = {"kind": self.kind, "at": self.at, "payload": self.payload}
        return json.dumps(kept if self.files is None else {**kept, "files": self.files})

    @staticmethod
    def of_line(line: str) -> Record:
        """The record that `line` gave.

        Raises:
          ValueError, KeyError, TypeError: the line is none of those.
        """
        read = json.loads(line)
        return Record(str(read["kind"]), int(read["at"]), dict(read["payload"]), read.get("files"))

    def __str__(self) -> str:
        """What it is about, for people."""
        if "key" in self.payload:
            key = self.key
            return f"{self.kind} {key.arm}/{key.language} {key.phase} seed {key.seed} ({key.identity})"
        return f"{self.kind} {self.payload.get('arm', '')}".strip()


def now() -> int:
    return int(time.time() * 1000)
