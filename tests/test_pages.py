"""What commands print for a pipe or a file: a row of a table is a line."""

from __future__ import annotations

import contextlib
import io

from test_report import build, study, trial

from softnce_ray.report import to_terminal
from softnce_ray.rich_console import for_stdout


def test_a_row_of_a_report_is_a_line_however_long_its_names_are_and_sentences_are_folded() -> None:
    arms = ("a" * 63, "b" * 63)
    trials = [trial(arm, seed, lift=0.1) for arm in arms for seed in (1, 2, 3)]
    report = build(study(*trials, arms=arms, baseline=arms[0]))
    with contextlib.redirect_stdout(io.StringIO()) as out:
        console = for_stdout()
        console.print(to_terminal(report, width=console.width))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    rows = [line for line in lines if line.startswith(arms)]
    assert [line.endswith("0") and "3/3" in line for line in rows] == [True, True]
    assert min(map(len, rows)) > console.width
    assert all(len(line) <= console.width for line in lines[lines.index(rows[-1]) + 1 :])
