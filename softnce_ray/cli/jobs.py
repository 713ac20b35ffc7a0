"""Commands that run studies as jobs of a cluster."""

from __future__ import annotations

import datetime
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from softnce_ray.cli.options import MaxConcurrentOption, TrustOption, UpgradeOption, whole_address
from softnce_ray.terminal import tell, to_stderr, to_stdout

if TYPE_CHECKING:
    from softnce_ray.study.jobs import Job, Jobs, Progress, Submission

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="http://HEAD:8265",
        help="The cluster's Jobs server (default: $RAY_API_SERVER_ADDRESS, or $RAY_ADDRESS where it is one)",
    ),
]
JobName = Annotated[
    str, typer.Argument(metavar="JOB|STUDY", help="A job's id, or a study: its job that runs, or the latest.")
]

_NOT_FOUND = 127


def submit(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="A study file; see search_spaces/.")],
    address: AddressOption = None,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            help="Folder on the cluster's head for runs and searches (default: $SOFTNCE_STORE here, or there)",
        ),
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            "--tracking-uri",
            help="MLflow server, as the cluster reaches it (default: $MLFLOW_TRACKING_URI here, or there)",
            callback=whole_address,
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            help="What nodes share that have no disk in common: s3://bucket/folder (default: $SOFTNCE_STORAGE here, or "
            "there)",
        ),
    ] = None,
    max_concurrent: MaxConcurrentOption = None,
    upgrade_store: UpgradeOption = False,
    trust_corpus: TrustOption = False,
    with_package: Annotated[
        bool, typer.Option("--with-package", help="Send this version of softnce-ray too, for a cluster with another.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for its end, showing its lines.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, and print what would be sent.")] = False,
) -> None:
    """Run a study as a job of a Ray cluster: this terminal can then be closed.

    Prints the job's id when the job has done its own checks. Submitting a study again goes on where it stopped.
    """
    from softnce_ray.study.jobs import Jobs, past_checks, send, submission
    from softnce_ray.study.jobs.checking import environment_with
    from softnce_ray.study.jobs.client import address_of
    from softnce_ray.study.jobs.sending import estimate_there, refuse_second

    where = address_of(address)
    made = submission(
        study,
        where,
        environment_with(store, tracking_uri, storage),
        max_concurrent=max_concurrent,
        trust_corpus=trust_corpus,
        with_package=with_package,
        upgrade_store=upgrade_store,
    )
    jobs = Jobs(where)
    tell([*made.notes, *jobs.notes])
    if dry_run:
        refuse_second(jobs, jobs.all(), made.study)
        _print_submission(made)
        tell([f"estimate: {estimate_there(made)}"])
        return
    name = send(jobs, made)
    tell([f"{made.study} was sent as job {name}; it goes on when this terminal is closed"])
    begun: list[str] = []

    def each(line: str) -> bool:
        to_stderr(line)
        if not begun and past_checks(line):
            begun.append(line)
            _sent(jobs, name)
        return bool(begun) and not follow

    job = _followed(jobs, name, each)
    if not begun and not job.active and job.state != "SUCCEEDED":
        tell(_why(job))
        raise typer.Exit(job.status)
    if not begun:  # nothing was left to do
        _sent(jobs, name)
    if follow:
        tell([f"{name}: {job.state}"])
        raise typer.Exit(job.status)


def status(
    job: Annotated[str | None, typer.Argument(metavar="[JOB|STUDY]", help="Only this one.", show_default=False)] = None,
    address: AddressOption = None,
) -> None:
    """List the studies that were submitted to a cluster, and how far they are.

    Columns: job, study, state, since when (UTC), trials done, trials in all, latest line; separated by tabs where they
    are piped. What a job does not tell yet is empty.
    """
    from concurrent.futures import ThreadPoolExecutor

    from softnce_ray.study.jobs import Jobs, of_interest, progress_of

    jobs = Jobs(address)
    found = jobs.all()
    if job is not None:
        jobs.job(job)  # or there is none
        found = [each for each in found if job in (each.id, each.study)]
    if not found:
        tell([f"no study was submitted to {jobs.shown} yet"])
        return
    wanted = of_interest(found)
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda each: _progress(jobs, each) if each.id in wanted else progress_of(""), found))
    rows = [_row(each, progress) for each, progress in zip(found, told, strict=True)]
    if sys.stdout.isatty():
        _table(rows)
        return
    for row in rows:
        to_stdout("\t".join(cell.replace("\t", " ") for cell in row))


def logs(
    job: JobName,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for more until the job ends.")] = False,
    address: AddressOption = None,
) -> None:
    """Print the lines of a job. With --follow the exit status is the job's: 0 when all went well, 130 when it was
    stopped."""
    from softnce_ray.study.jobs import Jobs

    jobs = Jobs(address)
    found = jobs.job(job)
    if not follow:
        to_stdout(jobs.log(found.id), end="")
        return

    def each(line: str) -> bool:
        to_stdout(line)
        return False

    ended = _followed(jobs, found.id, each)
    tell([f"{ended.id}: {ended.state}", *(_why(ended) if ended.state == "FAILED" else ())])
    raise typer.Exit(ended.status)


def stop(job: JobName, address: AddressOption = None) -> None:
    """Stop a job: what runs is left at its last checkpoint, and its MLflow runs are closed. Waits for that, and prints
    what is kept."""
    from softnce_ray.study.jobs import Jobs
    from softnce_ray.study.signals import STOPPING

    jobs = Jobs(address)
    found = jobs.job(job)
    if not found.active:
        tell([f"{found.id} has ended already: {found.state}"])
        return
    jobs.stop(found.id)
    tell([f"{found.id}: stopping after the last checkpoints"])
    stopping: list[str] = []

    def each(line: str) -> bool:
        """What the launch says from then on: what is kept of its trials."""
        if stopping:
            to_stderr(line)
        elif line.endswith(STOPPING):
            stopping.append(line)
        return False

    ended = _followed(jobs, found.id, each, doing="is stopping")
    tell([f"{ended.id}: {ended.state}; it goes on when its study file is submitted again"])


def _followed(jobs: Jobs, name: str, each: Callable[[str], bool], doing: str = "goes on") -> Job:
    """Follow a job; a connection that is lost for good, or Ctrl-C, does not end it."""
    from softnce_ray.study.jobs import follow
    from softnce_ray.study.signals import exit_status

    try:
        return follow(jobs, name, each, trouble=lambda text: tell([text]))
    except KeyboardInterrupt:
        tell([f"{name} {doing}: {jobs.command('logs', name, '--follow')}"])
        raise typer.Exit(exit_status(signal.SIGINT)) from None


def _sent(jobs: Jobs, name: str) -> None:
    to_stdout(name)
    tell([f"see  {jobs.command(*words)}" for words in (("logs", name, "--follow"), ("status",), ("stop", name))])


def _why(job: Job) -> list[str]:
    """What is said of a job that failed, beside its lines."""
    if job.exit_code == _NOT_FOUND:
        return [
            f"{job.id}: the cluster's head has no softnce-ray on its PATH: install it there, or send it with "
            "--with-package"
        ]
    return [f"{job.id}: {job.state}, {_end(job)}"]


def _end(job: Job) -> str:
    """How a job ended, as far as Ray knows."""
    said = [line.strip() for line in job.message.splitlines() if line.strip()]
    return said[-1] if job.exit_code is None and said else f"exit status {job.status}"


def _print_submission(made: Submission) -> None:
    from softnce_ray import __version__

    to_stdout(f"study\t{made.study}\nfile\t{made.file}\t{made.metadata['file']}\ncommand\t{made.entrypoint}")
    for name, value in sorted(made.environment.items()):
        to_stdout(f"variable\t{name}={value}")
    to_stdout(f"package\t{__version__ if made.with_package else made.metadata['package']}")


def _progress(jobs: Jobs, job: Job) -> Progress:
    """One that cannot be read now hides no other."""
    from softnce_ray.study.jobs import JobError, progress_of

    try:
        return progress_of(jobs.log(job.id))
    except JobError:
        return progress_of("")


def _row(job: Job, progress: Progress) -> list[str]:
    at = job.started if job.active else job.ended
    since = "" if at is None else datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    counts = ["" if count is None else str(count) for count in (progress.done, progress.total)]
    last = progress.last or (_end(job) if job.state == "FAILED" else "")
    return [job.id, job.study, job.state, since, *counts, last]


def _table(rows: list[list[str]]) -> None:
    """For people; the latest line is cut where it does not fit."""
    whole = [["job", "study", "state", "since (UTC)", "done", "of", "latest line"], *rows]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    for row in whole:
        cells = [
            cell.rjust(width) if cell.isdigit() else cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ]
        to_stdout("  ".join(cells)[: shutil.get_terminal_size().columns].rstrip())
