"""Ctrl-C and SIGTERM, in this process and in one of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from softnce_ray.study.signals import interruptible


def test_handlers_of_signals_are_put_back() -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    with interruptible():
        signal.signal(signal.SIGUSR1, lambda *_: None)  # as Tune does, and leaves it
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_a_first_signal_interrupts_also_where_interrupts_are_ignored(handler: Any, number: int) -> None:
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt), interruptible():
            os.kill(os.getpid(), number)
    finally:
        signal.signal(signal.SIGINT, before)


def test_while_tune_runs_a_first_signal_is_tunes() -> None:
    told: list[int] = []
    with interruptible() as interrupts:
        signal.signal(signal.SIGUSR1, lambda number, frame: told.append(number))
        os.kill(os.getpid(), signal.SIGINT)
    assert told == [signal.SIGINT]
    assert interrupts.number == signal.SIGINT


_PROCESS = """
import os, signal, sys, time
from softnce_ray.study.signals import interruptible

with interruptible() as interrupts:
    signal.signal(signal.SIGUSR1, lambda *_: None)  # as Tune does
    interrupts.closing = sys.argv[1] == "closing"
    for _ in range(int(sys.argv[2])):
        os.kill(os.getpid(), int(sys.argv[3]))
    print("went on", flush=True)
"""


@pytest.mark.parametrize(
    ("stage", "signals", "number", "status", "out"),
    [
        ("running", 1, signal.SIGINT, 0, "went on\n"),
        ("running", 2, signal.SIGINT, 130, ""),
        ("running", 2, signal.SIGTERM, 143, ""),
        ("closing", 1, signal.SIGINT, 130, ""),
    ],
)
def test_a_second_signal_ends_the_process_and_so_does_the_first_at_its_end(
    stage: str, signals: int, number: int, status: int, out: str
) -> None:
    command = [sys.executable, "-c", _PROCESS, stage, str(signals), str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (status, out), done.stderr
    assert "Traceback" not in done.stderr
    assert ("stopped at once" in done.stderr) == (status > 0)
