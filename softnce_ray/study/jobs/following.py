"""The lines of a job as they come, each once, over connections that may break."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from softnce_ray.study.jobs.client import Job, JobError, Jobs, Unreachable

_SILENCE = 60.0
"""Seconds without a word after which a connection is made anew: one that was lost in a sleep says nothing either."""
_PATIENCE = 900.0
"""Seconds that a server may be away."""
_PAUSE = 1.0


class Lines:
    """Whole lines of a text that comes in pieces, and from its beginning again with each connection."""

    def __init__(self) -> None:
        self.given = 0
        """Characters of the lines that were taken."""
        self._skip = 0
        self._rest = ""

    def again(self) -> None:
        """The text begins anew."""
        self._skip, self._rest = self.given, ""

    def take(self, text: str) -> list[str]:
        """The lines that are new and complete."""
        skipped = min(self._skip, len(text))
        self._skip -= skipped
        *whole, self._rest = (self._rest + text[skipped:]).split("\n")
        self.given += sum(len(line) + 1 for line in whole)
        return whole

    def end(self) -> list[str]:
        """What stands last without an end of line."""
        rest, self._rest = self._rest, ""
        self.given += len(rest)
        return [rest] if rest else []


def follow(
    jobs: Jobs,
    job: str,
    each: Callable[[str], bool],
    *,
    trouble: Callable[[str], None] = lambda text: None,
    patience: float = _PATIENCE,
) -> Job:
    """Call `each` with every line of a job from the first, until it returns True or the job has ended.

    A connection that breaks is made again, and no line comes twice.

    Args:
      trouble: told when a connection is lost, once for each time.
      patience: seconds that the server may be away.

    Raises:
      JobError: the server stays away, or no longer knows the job.
    """
    lines = Lines()
    lost: float | None = None
    while True:
        before = lines.given
        try:
            if asyncio.run(_read(jobs, job, lines, each)):
                return jobs.job(job)
            now = jobs.job(job)
            if not now.active:
                lines.again()
                for line in lines.take(jobs.log(job)) + lines.end():
                    each(line)
                return now
            lost = None
        except Unreachable as error:
            if lost is None or lines.given > before:
                trouble(f"{jobs.shown}: the connection is lost; the job goes on, trying again")
                lost = time.monotonic()
            if time.monotonic() - lost > patience:
                raise JobError(f"{error}; the job may go on there") from error
        lines.again()
        time.sleep(_PAUSE)


async def _read(jobs: Jobs, job: str, lines: Lines, each: Callable[[str], bool]) -> bool:
    """Read one connection to its end, or until it is silent; True when `each` has had enough.

    Raises:
      Unreachable: the connection broke.
    """
    import aiohttp

    async with contextlib.aclosing(jobs.tail(job)) as tail:
        while True:
            try:
                text = await asyncio.wait_for(anext(tail), _SILENCE)
            except (StopAsyncIteration, TimeoutError):
                return False
            except (aiohttp.ClientError, OSError, RuntimeError) as error:
                raise Unreachable(f"{jobs.shown} cannot be reached any more ({type(error).__name__})") from error
            if any(each(line) for line in lines.take(text)):
                return True
