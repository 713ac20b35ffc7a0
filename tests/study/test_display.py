"""What a running study shows: lines where there is no terminal, a table where there is one."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from softnce_ray.results import TrialKey
from softnce_ray.study.display import Display, Lines, LiveTable, display_for, title
from softnce_ray.study.jobs.progress import progress_of

CONFIRM = TrialKey("soft", "python", "confirm", 7, "abcdef0123456789")
SEARCH = TrialKey("infonce", "python", "search", 0, "0123456789abcdef")
METRICS = {"epoch": 1.0, "train_loss": 2.5, "valid_mrr": 0.25, "pairs_per_second": 12345.6, "best_valid_mrr": 0.25}


def console(*, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=150, force_terminal=terminal)


def shown(on: Console) -> str:
    return on.file.getvalue()  # type: ignore[attr-defined]


def play(display: Display) -> None:
    """A study of four trials, one of which an earlier launch has done."""
    display.say("tiny: 2 cells")
    display.progress(1, 4)
    display.started(CONFIRM)
    display.epoch(CONFIRM, METRICS, 3)
    display.progress(2, 4)
    display.ended(CONFIRM, "finished", {**METRICS, "test_mrr": 0.5})
    display.started(SEARCH)
    display.progress(4, 4)  # it answered two proposals
    display.ended(SEARCH, "failed: out of memory", {})
    display.close()


def test_there_is_a_table_on_a_terminal_and_lines_elsewhere() -> None:
    assert isinstance(display_for(console(terminal=True)), LiveTable)
    assert isinstance(display_for(console()), Lines)


def test_a_trial_is_named_by_its_seed_or_by_its_identity() -> None:
    assert title(CONFIRM) == "soft/python confirm seed 7"
    assert title(SEARCH) == "infonce/python search 012345"


def test_lines_tell_epochs_ends_and_how_much_is_done() -> None:
    on = console()
    play(Lines(on))
    lines = [line.partition("] ")[2] for line in shown(on).splitlines()]
    assert lines == [
        "tiny: 2 cells",
        "soft/python confirm seed 7: epoch 1/3, loss 2.500, valid MRR 0.2500, 12,346 pairs/s",
        "soft/python confirm seed 7: finished, valid MRR 0.2500, test MRR 0.5000 [2/4]",
        "infonce/python search 012345: failed: out of memory [4/4]",
    ]


def test_the_table_counts_trials_and_names_those_that_run_last() -> None:
    table = LiveTable(console(terminal=True))
    play(table)
    table.started(CONFIRM)
    on = console()
    on.print(table._table())
    last = shown(on)
    assert last.startswith("4 of 4 trials, 0:")
    assert last.index("infonce/python") < last.index("soft/python confirm seed 7")
    assert "failed" in last
    assert "running" in last


def test_the_end_is_told_once_it_can_be_expected() -> None:
    on, table = console(), LiveTable(console(terminal=True))
    lines = Lines(on)
    for display in (lines, table):
        display.progress(2, 4, 600.0)
        display.ended(CONFIRM, "finished", {})
    assert shown(on).endswith("soft/python confirm seed 7: finished, about 10 min left [2/4]\n")
    assert progress_of(shown(on)).done == 2
    own = console()
    own.print(table._table())
    assert re.match(r"2 of 4 trials, 0:\d\d, ends about (\w{3} \d\d \w{3} )?\d\d:\d\d", shown(own))
    for display in (lines, table):
        display.progress(4, 4, 0.0)
        display.ended(SEARCH, "finished", {})
        display.close()
    assert shown(on).endswith("infonce/python search 012345: finished [4/4]\n")
    own.print(table._table())
    assert "ends" not in shown(own).partition("4 of 4")[2]


def test_a_failure_is_told_in_full_beside_the_table() -> None:
    on = console(terminal=True)
    play(LiveTable(on))
    assert "infonce/python search 012345: failed: out of memory" in shown(on)


@pytest.mark.parametrize("display", [LiveTable(console(terminal=True)), Lines(console())])
def test_a_display_may_be_closed_twice_and_before_it_began(display: Display) -> None:
    display.close()
    display.close()


def test_a_closed_table_leaves_the_cursor_visible() -> None:
    on = console(terminal=True)
    play(LiveTable(on))
    assert shown(on).rindex("\x1b[?25h") > shown(on).rindex("\x1b[?25l")
