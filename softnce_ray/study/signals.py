"""Ctrl-C and SIGTERM: the first stops a launch cleanly, the second at once.

Tune would put a handler of its own in the place of ours: `cluster` forbids it. SIGUSR1, which Tune understands in the
same way, is left to it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from softnce_ray.study import again
from softnce_ray.terminal import to_stderr

STOPPING = "stopping after the last checkpoints; once more to stop at once"
"""What a launch says when the first signal comes."""


class Interrupts:
    """What signals do at each stage of a launch."""

    def __init__(self) -> None:
        self.number = 0
        """Of the first signal; 0 before it."""
        self.closing = False
        """Set while records are sent at the end: then the first signal ends the process too, for what is not sent
        yet lies on disk."""

    def listen(self) -> None:
        """Handle SIGINT and SIGTERM from now on; again after Ray has started, which takes SIGTERM for itself. Not in
        a thread, where Python handles no signals."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self.handle)

    def handle(self, number: int, frame: Any) -> None:
        if self.number or self.closing:
            text = f"softnce-ray: stopped at once; {again.command()} goes on"
            to_stderr(text)
            os._exit(exit_status(number))
        self.number = number
        to_stderr(f"softnce-ray: {STOPPING}")
        tune = signal.getsignal(signal.SIGUSR1)  # Tune's, while it runs
        if not callable(tune):
            raise KeyboardInterrupt
        tune(number, frame)


def exit_status(number: int) -> int:
    """Of a process that a signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + number


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Handle SIGINT and SIGTERM for a launch: inside Tune they end its trials and it returns, elsewhere they raise
    KeyboardInterrupt. All handlers are put back afterwards, the one that Tune leaves behind too. In a thread, where
    Python handles no signals, nothing is changed."""
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    interrupts.listen()
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
