"""A study made a job of: its command, its files, its environment and its name."""

from __future__ import annotations

import datetime
import hashlib
import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import softnce_ray
from softnce_ray import __version__
from softnce_ray.commands import command
from softnce_ray.study import again
from softnce_ray.study.jobs.checking import OPTIONS, StudyText, checked_environment, checked_study
from softnce_ray.study.jobs.client import OURS, Job, JobError, Jobs, shown
from softnce_ray.study.problems import StudyError
from softnce_ray.temporary import temporary_folder
from softnce_ray.uris import without_password

STOPPING = 120
"""Seconds that a job has to close its runs when it is stopped: Ray's own are 3."""
_TRIES = 100


@dataclass(frozen=True)
class Submission:
    """What is sent.

    Attributes:
      file: name of the study file in the job's working directory, and `text` what it says.
      environment: the job's variables, which everyone who reaches the dashboard can read.
      metadata: the study, the fingerprint of its file, and the version of the package that sends it.
      with_package: this package goes with it, in the place of the cluster's.
      notes: for people.
    """

    study: str
    file: str
    text: str
    entrypoint: str
    environment: dict[str, str]
    metadata: dict[str, str]
    with_package: bool
    notes: tuple[str, ...]


def submission(
    path: str | Path,
    address: str,
    environment: Mapping[str, str],
    *,
    max_concurrent: int | None = None,
    trust_corpus: bool = False,
    with_package: bool = False,
    upgrade_store: bool = False,
) -> Submission:
    """Check a study, and this environment, for a cluster, and make a job of it. Nothing is sent.

    Args:
      address: of the cluster's Jobs server.
      environment: variables of this machine; see `checking`.
      max_concurrent: trials at once, in the place of the study's `resources.max_concurrent`.
      trust_corpus: read the rows of the corpus neither here nor in the job.
      with_package: send this package too.
      upgrade_store: migrate the store's databases first, as `launch` does with this option.

    Raises:
      StudyError: the study is wrong, or names what only this machine has.
      JobError: this environment is of no use on a cluster, or both.
    """
    file = Path(path)
    wrong: list[str] = []
    found = checked_environment(environment, address)
    try:
        study = checked_study(file, trust_corpus=trust_corpus)
    except StudyError as error:
        if not found.problems:
            raise
        wrong = [str(error)]
    if wrong or found.problems:
        raise JobError("\n".join([*wrong, *found.problems]))
    program = "python -m softnce_ray" if with_package else "softnce-ray"
    trusting = ["--trust-corpus"] * trust_corpus
    option = "".join(f" {each}" for each in ["--upgrade-store"] * upgrade_store + trusting)
    options = trusting + ["--with-package"] * with_package
    # The shell ends with the reason where a variable is missing. A job's directory may be made anew under its feet, by
    # another node on the same host. `exec`: signals and status are the launch's own.
    guards = [f': "${{{name}:?{reason}}}" &&' for name, reason in found.needed.items()]
    return Submission(
        study=study.name,
        file=file.name,
        text=study.text if max_concurrent is None else _limited(study, max_concurrent),
        entrypoint=" ".join([*guards, f'cd / && exec {program} launch "$OLDPWD"/{shlex.quote(file.name)}{option}']),
        environment={
            **found.sent,
            again.VARIABLE: _again(file, address, environment, max_concurrent, options),
            "RAY_JOB_STOP_WAIT_TIME_S": str(STOPPING),
        },
        metadata={
            OURS: __version__,
            "study": study.name,
            "file": hashlib.sha256(study.text.encode()).hexdigest()[:12],
            "package": "sent" if with_package else "the cluster's",
        },
        with_package=with_package,
        notes=(*study.notes, *found.notes),
    )


def estimate_there(made: Submission) -> str:
    """Return where the estimate of a study comes from that is not sent: store, corpus and slots are the cluster's."""
    options = [word for option, name in OPTIONS.items() if name in made.environment for word in (option, name)]
    words = [made.environment.get(word, word) for word in options]
    typed = command("softnce-ray", "launch", made.file, "--dry-run", "--calibrate", *words)
    return (
        f"only the cluster can tell, where store and corpus are: the job prints it before it trains; on the head, "
        f"`{typed}` prints it now"
    )


def send(jobs: Jobs, made: Submission) -> str:
    """Start a job; returns its id, `<study>-<date>-<n>`.

    Raises:
      JobError: the study runs as a job there already, or the server does not take it.
    """
    known = jobs.all()
    refuse_second(jobs, known, made.study)
    date = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d")
    taken = {job.id for job in known}
    with temporary_folder() as folder:
        environment = _runtime(made, folder)
        for number in range(1, _TRIES):
            name = f"{made.study}-{date}-{number}"
            if name not in taken and jobs.send(name, made.entrypoint, environment, made.metadata):
                return name
    raise JobError(
        f"{jobs.shown}: {_TRIES - 1} jobs of {made.study} on one day: delete some with "
        f"`{command('ray', 'job', 'delete', '--address', jobs.shown, f'{made.study}-{date}-1')}`"
    )


def refuse_second(jobs: Jobs, known: list[Job], study: str) -> None:
    """Raise JobError where a study runs as a job already."""
    for job in known:
        if job.study == study and job.active:
            raise JobError(
                f"{study} runs at {jobs.shown} as job {job.id} ({job.state}): wait for it, or end it with "
                f"`{jobs.command('stop', job.id)}`"
            )


def _again(
    file: Path, address: str, environment: Mapping[str, str], max_concurrent: int | None, flags: list[str]
) -> str:
    """Return what the sender types to go on. All who reach the dashboard can read it."""
    given = {
        "--address": address if shown(address) == address else None,
        **{
            option: environment.get(name)
            for option, name in OPTIONS.items()
            if environment.get(name) != os.environ.get(name)
        },
        "--max-concurrent": None if max_concurrent is None else str(max_concurrent),
    }
    options = [word for option, value in given.items() if value is not None for word in (option, value)]
    verb = "launch" if address.startswith("ray://") else "submit"
    options = [without_password(word) for word in options] + flags
    return command("softnce-ray", verb, file, *options)


def _limited(study: StudyText, max_concurrent: int) -> str:
    """The file with another number of trials at once; comments and order of keys are not what makes a study."""
    resources = {**(study.raw.get("resources") or {}), "max_concurrent": max_concurrent}
    text = yaml.safe_dump({**study.raw, "resources": resources}, sort_keys=False, allow_unicode=True)
    return f"# resources.max_concurrent was given to submit\n{text}"


def _runtime(made: Submission, folder: Path) -> dict[str, Any]:
    """Ray's runtime environment of a job, with its files made below `folder`."""
    work = folder / "work"
    work.mkdir()
    (work / made.file).write_bytes(made.text.encode())
    found: dict[str, Any] = {"working_dir": str(work), "env_vars": dict(made.environment)}
    if made.with_package:
        found["py_modules"] = [str(each) for each in _package(folder)]
    return found


def _package(folder: Path) -> tuple[Path, Path]:
    """A copy of this package, and beside it what tells its version: else that of the cluster's own would be told."""
    code = folder / softnce_ray.__name__
    shutil.copytree(Path(softnce_ray.__file__).parent, code, ignore=shutil.ignore_patterns("__pycache__"))
    about = folder / f"{softnce_ray.__name__}-{__version__}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: softnce-ray\nVersion: {__version__}\n")
    return code, about
