"""Commands that run studies."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from softnce_ray.cli.options import (
    AddressOption,
    CalibrateOption,
    MaxConcurrentOption,
    StorageOption,
    StoreOption,
    StudyName,
    TrackingOption,
    TrustOption,
    UpgradeOption,
    on_cluster,
    store_at,
)
from softnce_ray.terminal import tell, to_stderr, to_stdout

if TYPE_CHECKING:
    from softnce_ray.config import StudyConfig
    from softnce_ray.store import Store
    from softnce_ray.study.run import Launch


def launch(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="A study file; see search_spaces/.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the study, print its trials and estimate what they take.")
    ] = False,
    calibrate: CalibrateOption = False,
    store: StoreOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    address: AddressOption = None,
    max_concurrent: MaxConcurrentOption = None,
    upgrade_store: UpgradeOption = False,
    trust_corpus: TrustOption = False,
) -> None:
    """Run what is missing of a study. Launching again after an interrupt goes on."""
    from softnce_ray.errors import UserError
    from softnce_ray.study.file import load_study

    if calibrate and not dry_run:
        raise UserError("--calibrate: expected --dry-run beside it: a launch measures by training; add --dry-run")
    on_cluster(address)
    if not dry_run and (client := os.environ.get("RAY_ADDRESS", "")).startswith("ray://"):
        options = {"max_concurrent": max_concurrent, "upgrade_store": upgrade_store, "trust_corpus": trust_corpus}
        _launch_through_client(study, client, store, storage, tracking_uri, options)
    config = load_study(study)
    if max_concurrent is not None:
        resources = config.resources.model_copy(update={"max_concurrent": max_concurrent})
        config = config.model_copy(update={"resources": resources})
    if dry_run:
        from softnce_ray.study.planned import planned_trials

        for arm, language, phase, what in planned_trials(config):
            to_stdout(f"{arm}\t{language}\t{phase}\t{what}")
        tell(["checking the corpus and the models, and reading the store"])  # imports alone take seconds
        from softnce_ray.corpus.store import Corpus
        from softnce_ray.corpus.verifying import Verify
        from softnce_ray.study.costs import costs
        from softnce_ray.study.doctor import check_settings, check_texts, settle

        corpus = Corpus.open(config.corpus, verify=Verify.unless(trust_corpus))
        config, notes = settle(config)
        place = store_at(store, tracking_uri, storage)
        notes += check_settings(config, place)
        notes += check_texts(config, corpus)
        tell(f"note: {note}" for note in notes)
        whole = config.with_all(corpus.languages)
        found = costs(whole, corpus, place, calibrate=calibrate, say=lambda text: tell([text]))
        tell(f"estimate: {line}" for line in found)
        return
    _run(config, store_at(store, tracking_uri, storage), address, upgrade_store, trust_corpus)


def resume(
    study: StudyName,
    store: StoreOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    address: AddressOption = None,
    upgrade_store: UpgradeOption = False,
    trust_corpus: TrustOption = False,
) -> None:
    """Go on with a study, as it was last launched, by its name."""
    from softnce_ray.study.saved import saved_study

    on_cluster(address)
    place = store_at(store, tracking_uri, storage)
    saved = saved_study(place, study)
    _from(saved.directory)
    _run(saved.study, place, address, upgrade_store, trust_corpus)


def extend(
    study: StudyName,
    seed: Annotated[list[int] | None, typer.Option("--seed", min=0, help="One more seed; repeatable.")] = None,
    language: Annotated[
        list[str] | None, typer.Option("--language", help="One more language of the corpus, or all; repeatable.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Search trials of each cell, those that it has included.")
    ] = None,
    store: StoreOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    address: AddressOption = None,
    upgrade_store: UpgradeOption = False,
    trust_corpus: TrustOption = False,
) -> None:
    """Add seeds, languages or search trials to a study and run only what is missing. More arms: add them to its file
    and launch it again."""
    from softnce_ray.errors import UserError
    from softnce_ray.study.saved import extended, saved_study

    if not (seed or language or trials):
        raise UserError("expected something to add: --seed, --language or --trials")
    on_cluster(address)
    place = store_at(store, tracking_uri, storage)
    saved = saved_study(place, study)
    _from(saved.directory)
    more = extended(saved.study, seeds=seed or (), languages=language or (), trials=trials)
    _run(more, place, address, upgrade_store, trust_corpus)


def sync(
    study: StudyName,
    store: StoreOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Send what MLflow could not take when a study ran, and sum up."""
    from softnce_ray.study.summary import sync as run

    unsent = run(store_at(store, tracking_uri, storage), study)
    tell(unsent.problems + unsent.refused)
    if unsent:
        tell([f"{unsent.records} records of {study} still wait: try again when MLflow can be reached"])
        raise typer.Exit(1)
    to_stdout(f"{study}: MLflow has everything")


def schema() -> None:
    """Print the JSON schema of study files, for editors."""
    import json

    from softnce_ray.study.problems import StudyFile

    to_stdout(json.dumps(StudyFile.model_json_schema(), indent=1))


def _run(config: StudyConfig, place: Store, address: str | None, upgrade: bool, trust_corpus: bool) -> None:
    """Run a study, say what came of it and what can be done next."""
    from softnce_ray.study import again
    from softnce_ray.study.cluster import check_token

    check_token()
    from softnce_ray.study.run import launch as run
    from softnce_ray.study.signals import exit_status
    from softnce_ray.study.storage import upgrade_store

    if upgrade:
        upgrade_store(place)
    name = config.study
    options = [*(() if address is None else ("--address", address)), *["--trust-corpus"] * trust_corpus]
    with again.by(place, name, *options):
        done = run(config, store=place, trust_corpus=trust_corpus)
        more = again.command()
    tell(f"note: {text}" for text in done.notes)
    tell((*done.problems, *(f"not written to MLflow: {text}" for text in done.unsent)))
    if done.waiting or not done.summed_up:
        sent = place.command("sync", name)
        tell([f"{done.waiting} records wait for MLflow: send them and sum up with  {sent}"])
    if done.interrupted:
        to_stdout(count_text(name, done))
        to_stderr(f"interrupted: go on with  {more}")
        raise typer.Exit(exit_status(done.signal or signal.SIGINT))
    if done.ran == 0 and not (done.failed or done.failed_before or done.problems):
        to_stdout(f"{name}: nothing to do: all {done.already_done} trials are there")
    else:
        to_stdout(count_text(name, done))
    own = place.database == place.root / "mlflow.db"
    ui = f"  and  {place.command('ui')}" if own else ""
    to_stdout(f"see  {place.command('report', name)}{ui}")
    if done.failed or done.problems:
        to_stderr(f"softnce-ray: not all is done; try what failed again with  {more}")
    if done.failed or done.problems or done.unsent or done.waiting:
        raise typer.Exit(1)


def count_text(name: str, done: Launch) -> str:
    """Return a line with the number of trials of a launch by their outcome, failed ones of earlier launches too."""
    text = f"{name}: {done.ran} trials run, {done.already_done} were there already"
    if (failed := done.failed + done.failed_before) or not (done.problems or done.unsent or done.waiting):
        text += f", {failed} failed"
    if done.failed_before:
        text += f", {done.failed_before} of them in earlier launches" if done.failed else " in earlier launches"
    return f"{text}, {done.stopped} stopped in the middle" if done.stopped else text


def _launch_through_client(
    study: Path,
    address: str,
    store: Path | None,
    storage: str | None,
    tracking_uri: str | None,
    options: dict[str, Any],
) -> NoReturn:
    """Launch through Ray Client: the driver is the cluster's."""
    from softnce_ray.study.cluster import connected
    from softnce_ray.study.jobs import submission
    from softnce_ray.study.jobs.checking import environment_with
    from softnce_ray.study.through_client import launch_through_client

    environment = environment_with(None if store is None else str(store), tracking_uri, storage)
    made = submission(study, address, environment, **options)
    tell(made.notes)
    with connected():
        status = launch_through_client(made, to_stderr)
    raise typer.Exit(status)


def _from(directory: Path) -> None:
    """Relative paths of a study, to models for example, start where it was launched."""
    if directory.is_dir():
        os.chdir(directory)
