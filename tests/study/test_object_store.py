"""Studies whose corpus, prepared data and checkpoints lie in an object store: a real S3-compatible server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import S3, Wire

from softnce_ray import storage
from softnce_ray.corpus import copy_corpus
from softnce_ray.results import MODEL_FOLDER
from softnce_ray.storage import Location
from softnce_ray.store import Store
from softnce_ray.study.cluster import LaunchError
from softnce_ray.study.doctor import examine
from softnce_ray.study.run import Launch

from .launching import Meddling, Said, actors, go, runs, scores, small_cluster

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def remote(s3_server: S3, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Store]]:
    """A function that makes a store whose machines share a new bucket, in a Ray session that knows the object store."""
    root = tmp_path_factory.mktemp("remote")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment.items():
            patch.setenv(name, value)
        patch.setenv("SOFTNCE_CACHE", str(root / "cache"))

        def make() -> Store:
            bucket = s3_server.bucket()
            folder = root / bucket / "store"
            shutil.copytree(empty_store, folder)
            return Store(folder, f"sqlite:///{folder}/mlflow.db", f"s3://{bucket}/shared")

        with small_cluster(1):
            yield make


@pytest.fixture(scope="module")
def finished(
    remote: Callable[[], Store], plain_study: Callable[..., dict[str, Any]], tiny_corpus: Path
) -> tuple[dict[str, Any], Store, Launch]:
    """A study that has run to its end, with its corpus in the object store too."""
    store = remote()
    place = f"{store.storage}/corpora/tiny"
    copy_corpus(tiny_corpus, place)
    study = plain_study(corpus=place)
    return study, store, go(study, store)


def test_a_study_in_an_object_store_gives_what_one_on_a_disk_gives(
    finished: tuple[dict[str, Any], Store, Launch],
    store: Store,
    plain_study: Callable[..., dict[str, Any]],
) -> None:
    _, _, done = finished
    assert (done.ran, done.failed, done.unsent) == (4, 0, ())
    here = go(plain_study(), store)
    assert scores(done.results.trials) == scores(here.results.trials)


def test_the_object_store_holds_what_is_shared_and_the_folder_what_is_not(
    finished: tuple[dict[str, Any], Store, Launch],
) -> None:
    _, store, _ = finished
    assert {path.name for path in store.root.iterdir()} >= {"mlflow.db", "studies", "ray"}
    assert not (store.root / "prepared").exists()
    assert not [path for path in store.ray("tiny").iterdir() if path.name != "lock"]
    assert storage.names(store.prepared) == ["estimators", "tokens"]
    assert "attempts" in storage.names(store.checkpoints("tiny"))


def test_the_best_models_are_kept_in_mlflow(finished: tuple[dict[str, Any], Store, Launch]) -> None:
    from mlflow import MlflowClient

    _, store, _ = finished
    client = MlflowClient(tracking_uri=store.tracking_uri)
    kept = [
        run.data.tags["arm"] for run in runs(store, "trial") if client.list_artifacts(run.info.run_id, MODEL_FOLDER)
    ]
    assert sorted(kept) == ["infonce", "soft"]


def test_a_second_launch_finds_all_done_from_another_machine(
    finished: tuple[dict[str, Any], Store, Launch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, store, _ = finished
    monkeypatch.setenv("SOFTNCE_CACHE", str(tmp_path / "empty"))
    again = go(study, store)
    assert (again.ran, again.already_done, again.failed) == (0, 4, 0)


@pytest.mark.long
def test_a_trial_goes_on_from_its_checkpoint_in_the_object_store(
    remote: Callable[[], Store], plain_study: Callable[..., dict[str, Any]]
) -> None:
    study = plain_study(seeds=[1], arms={"infonce": {"training": {"epochs": 12, "batch_size": 16}}})
    whole = go(study, remote())
    store, killed = remote(), []

    def kill() -> None:
        for worker in actors():
            worker.send_signal(signal.SIGKILL)
            killed.append(worker.pid)

    done = go(study, store, Meddling("epoch infonce 5", lambda: threading.Timer(0.1, kill).start()))
    assert killed
    assert (done.ran, done.failed) == (1, 0)
    assert scores(done.results.trials) == scores(whole.results.trials)
    books = store.checkpoints("tiny") / "attempts"
    (book,) = storage.names(books)
    lines = (storage.read(books / book) or b"").decode().splitlines()
    assert [json.loads(line)["epoch"] >= least for line, least in zip(lines, (0, 4), strict=True)] == [True, True]


ONE: dict[str, Any] = {"seeds": [1], "arms": {"infonce": {"training": {"epochs": 8, "batch_size": 16}}}}


@pytest.fixture
def wire(s3_server: S3) -> Iterator[Wire]:
    with Wire(s3_server.endpoint) as wire:
        yield wire


def _behind(wire: Wire, store: Store) -> Store:
    """The same store, which all processes reach through the wire."""
    return Store(store.root, store.tracking_uri, f"{store.storage}?endpoint_override={wire.uri}")


class Away(Meddling):
    """A display that cuts the wire after some epochs, and mends it when it hears that the store is missed."""

    def __init__(self, wire: Wire) -> None:
        super().__init__("epoch infonce 3", wire.cut)
        self._mend = wire.mend

    def say(self, text: str) -> None:
        super().say(text)
        if "gives no answer" in text:
            self._mend()


@pytest.mark.long
def test_an_object_store_that_is_gone_for_a_while_costs_nothing(
    remote: Callable[[], Store], plain_study: Callable[..., dict[str, Any]], wire: Wire
) -> None:
    there, said = remote(), Away(wire)
    done = go(plain_study(**ONE), _behind(wire, there), said)
    assert (done.ran, done.failed, done.unsent, done.problems) == (1, 0, (), ())
    assert scores(done.results.trials) == scores(go(plain_study(**ONE), remote()).results.trials)
    (run,) = runs(there, "trial")
    assert run.data.tags["attempts"] == "1"
    notes = [line for line in said.said if line.startswith("note: infonce/python confirm seed 1: the object store ")]
    assert [note.rpartition("the object store ")[2].split()[0] for note in notes] == ["gives", "answers"]
    bucket, log = str(there.storage).partition("/shared")[0], there.ray("tiny") / "object-store.log"
    assert f"({bucket}: no connection, {wire.uri.removeprefix('http://')}): it is asked again for 5 minutes" in notes[0]
    assert notes[0].endswith(f"; in full in {log}")
    assert "curlCode: 7" in log.read_text()


class AtTheEnd(Said):
    """A display that does something when the first trial has ended."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self._act = act

    def ended(self, key: Any, outcome: str, metrics: Any) -> None:
        super().ended(key, outcome, metrics)
        self._act()


@pytest.mark.long
def test_an_object_store_that_stays_away_ends_the_launch_in_a_line_and_it_goes_on_later(
    remote: Callable[[], Store],
    plain_study: Callable[..., dict[str, Any]],
    wire: Wire,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("softnce_ray.study.patience.SECONDS", 1.0)
    study = plain_study(**ONE | {"seeds": [1, 2]}, resources={"max_concurrent": 1})
    store, said = _behind(wire, remote()), AtTheEnd(wire.cut)
    with pytest.raises(LaunchError, match=r"no answer for .*; what was done is kept: softnce-ray resume tiny goes on$"):
        go(study, store, said)
    assert any(line.startswith("note: the object store gives no answer (") for line in said.said)
    assert [run.info.status for run in runs(store, "trial")] == ["FINISHED"]
    wire.mend()
    done = go(study, store)
    assert (done.ran, done.already_done, done.failed) == (1, 1, 0)


@pytest.mark.long
def test_checkpoints_that_were_deleted_are_told_of_when_a_study_goes_on(
    remote: Callable[[], Store], plain_study: Callable[..., dict[str, Any]]
) -> None:
    store = remote()
    interrupt = Meddling("epoch infonce 4", lambda: os.kill(os.getpid(), signal.SIGINT))
    assert go(plain_study(**ONE), store, interrupt).interrupted
    (run,) = runs(store, "trial")
    storage.remove(store.checkpoints("tiny"))
    said = Said()
    done = go(plain_study(**ONE), store, said)
    assert (done.ran, done.failed) == (1, 0)
    (told,) = [line for line in said.said if "are gone" in line]
    assert told == (
        f"note: infonce/python confirm seed 1: its checkpoints in {store.checkpoints('tiny')} are gone: it had "
        f"{run.data.metrics['epoch']:.0f} epochs, and begins anew"
    )


def test_an_object_store_that_cannot_be_used_is_told_before_anything_starts(
    remote: Callable[[], Store], plain_study: Callable[..., dict[str, Any]]
) -> None:
    there = remote()
    store = Store(there.root, there.tracking_uri, "s3://no-such-bucket-at-all/shared")
    with pytest.raises(LaunchError, match=r"storage: s3://no-such-bucket-at-all/shared cannot be used"):
        go(plain_study(), store)
    levels = {finding.check: finding.level for finding in examine(store=store)}
    assert (levels["storage"], levels["store"]) == ("error", "ok")


def test_a_corpus_that_changes_while_a_study_runs_is_refused(
    remote: Callable[[], Store], tiny_corpus: Path, two_languages: Path
) -> None:
    from softnce_ray.corpus import Corpus, CorpusError
    from softnce_ray.study.trainable import TrialSpec, _corpus

    store = remote()
    place = f"{store.storage}/corpus"
    copy_corpus(tiny_corpus, place)
    spec = TrialSpec({}, "a", "confirm", "1", 1, None, place, Corpus.open(place).fingerprint, {}, 1, "cpu")
    assert _corpus(spec).fingerprint == spec.fingerprint
    storage.remove(Location.at(place))
    copy_corpus(two_languages, place)
    with pytest.raises(CorpusError, match="changed while the study ran"):
        _corpus(spec)
