"""The command that chooses a model."""

from __future__ import annotations

import enum
import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from softnce_ray.cli.options import StoreOption, StudyName, TrackingOption, store_at
from softnce_ray.terminal import to_stderr, to_stdout

if TYPE_CHECKING:
    from softnce_ray.selection import Candidate, Choice
    from softnce_ray.store import Store


class Format(enum.StrEnum):
    """Renderings of a choice."""

    terminal = "terminal"
    json = "json"


def best(
    study: StudyName,
    language: Annotated[
        str | None, typer.Option(help="As in the study's file, all included (default: each that it has).")
    ] = None,
    metric: Annotated[
        Literal["mrr", "recall@1", "recall@5", "recall@10", "ndcg@10", "graded_ndcg"],
        typer.Option(help="Mean over the validation queries."),
    ] = "mrr",
    rule: Annotated[
        Literal["best", "one-standard-error"],
        typer.Option(help="one-standard-error: the cheapest arm that is not that much worse than the best."),
    ] = "best",
    max_latency_ms: Annotated[
        float | None, typer.Option("--max-latency-ms", min=0, help="Median to encode one query here, with one thread.")
    ] = None,
    max_size_mb: Annotated[
        float | None, typer.Option("--max-size-mb", min=0, help="Of the model's files; 10^6 bytes.")
    ] = None,
    format: Annotated[Format, typer.Option("--format")] = Format.terminal,
    store: StoreOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Choose the model to ship by validation alone, say what else came close, and record the choice for export."""
    from softnce_ray.selection import as_plain
    from softnce_ray.selection import best as run

    place = store_at(store, tracking_uri)
    choices = run(
        study,
        store=place,
        language=language,
        metric=metric,
        rule=rule,
        max_latency_ms=max_latency_ms,
        max_size_mb=max_size_mb,
        say=to_stderr,
    )
    if format is Format.json:
        to_stdout(json.dumps([as_plain(each) for each in choices], indent=1))
        return
    for number, choice in enumerate(choices):
        if number:
            to_stdout()
        _show(choice, place)
    to_stdout(
        "\nTest was not read. Recorded in the study's run (tag selection.<language>) and in the chosen run (selected): "
        "export takes it from there."
    )


def _show(choice: Choice, store: Store) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from softnce_ray.rich_console import for_stdout

    console = for_stdout()
    trial = choice.trial
    to_stdout(f"{choice.language}: {choice.chosen.arm}, seed {trial.seed}, run {trial.run_id}")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm")
    for name in (f"valid {choice.metric}", "95 % interval", "behind the best", "standard error", "size", "latency"):
        table.add_column(name, justify="right")
    for each in choice.candidates:
        table.add_row(*_row(each, each.arm == choice.chosen.arm))
    console.print(table)
    *said, following = _sentences(choice, store)
    for line in said:
        console.print(line, markup=False, highlight=False)
    to_stdout(following)  # not folded: it is a command


def _row(candidate: Candidate, is_chosen: bool) -> tuple[str, ...]:
    from softnce_ray.report.wording import bounds

    mean, behind, cost = candidate.mean, candidate.behind, candidate.cost
    return (
        f"{'*' if is_chosen else ' '} {candidate.arm}",
        f"{mean.mean:.4f}",
        bounds(mean, "{:.4f}".format),
        "–" if behind is None else f"{behind.mean:.4f}",
        "–" if behind is None else f"{behind.standard_error:.4f}",
        "–" if cost is None else f"{cost.bytes / 1e6:.1f} MB",
        "–" if cost is None or cost.milliseconds is None else f"{cost.milliseconds:.2f} ms",
    )


def _sentences(choice: Choice, store: Store) -> list[str]:
    from softnce_ray.report.wording import bounds, signed

    seeds = len(choice.chosen.trials)
    rules = {
        "best": f"the best mean over {seeds} seeds, then the best of its seeds",
        "one-standard-error": "of the arms within one standard error of the best mean that with "
        "the fewest parameters, then the fastest, then the best; then the best of its seeds",
    }
    limits = {"size_mb": "files of at most {:g} MB", "latency_ms": "at most {:g} ms to encode a query"}
    asked = "".join(f"; {limits[name].format(value)}" for name, value in choice.limits.items())
    lines = [f"Rule: {rules[choice.rule]}{asked}."]
    if choice.runner_up is not None and choice.difference is not None:
        gap = choice.difference
        verdict = "more than chance" if gap.low > 0 or gap.high < 0 else "not distinguishable"
        lines.append(
            f"Runner-up: {choice.runner_up.arm}; {choice.chosen.arm} − {choice.runner_up.arm} = {signed(gap.mean)} "
            f"{bounds(gap, signed)} (95 %, over queries and seeds): {verdict}."
        )
    if choice.runner_up is None:
        lines.append("Runner-up: none: no other arm could be chosen.")
    if any(each.cost is not None and each.cost.milliseconds is not None for each in choice.candidates):
        lines.append("Latency: median to encode one query, measured now, on this machine, one thread.")
    lines += [f"Left out: {arm}: {reason}" for arm, reason in choice.left_out.items()]
    lines += [f"Note: {note}" for note in choice.notes]
    lines.append(f"Next: {store.command('export', choice.trial.run_id, '--to', 'DIR')}")
    return lines
