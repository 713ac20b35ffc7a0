"""Commands that run studies."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from softnce_ray.cli.options import StoreOption, TrackingOption, store_at


def launch(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="A study file; see search_spaces/.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the study and print its trials.")] = False,
    store: StoreOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Run what is missing of a study. Launching again after an interrupt goes on."""
    from softnce_ray.study.file import load_study

    config = load_study(study)
    if dry_run:
        from softnce_ray.study.planner import planned_trials

        for arm, language, phase, what in planned_trials(config):
            print(f"{arm}\t{language}\t{phase}\t{what}")
        return

    from softnce_ray.study.run import launch as run

    done = run(config, store=store_at(store, tracking_uri))
    for line in (*done.problems, *(f"not written to MLflow: {text}" for text in done.unsent)):
        print(f"softnce-ray: {line}", file=sys.stderr)
    print(f"{config.study}: {done.ran} trials run, {done.already_done} were there already, {done.failed} failed")
    place = "".join(
        f" {option} {shlex.quote(str(value))}"
        for option, value in (("--store", store), ("--tracking-uri", tracking_uri))
        if value is not None
    )
    again = f"softnce-ray launch {shlex.quote(str(study))}{place}"
    if done.interrupted:
        print(f"interrupted: go on with  {again}", file=sys.stderr)
        raise typer.Exit(130)
    ui = f"  and  softnce-ray ui{place}" if tracking_uri is None else ""
    print(f"see  softnce-ray report {config.study}{place}{ui}")
    if done.failed or done.problems or done.unsent:
        print(f"softnce-ray: not all is done; try what failed again with  {again}", file=sys.stderr)
        raise typer.Exit(1)


def schema() -> None:
    """Print the JSON schema of study files, for editors."""
    import json

    from softnce_ray.study.problems import StudyFile

    print(json.dumps(StudyFile.model_json_schema(), indent=1))
