"""A real MLflow server that fails, hangs, is killed and comes back: nothing is lost, nothing is there twice."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from servers import FaultyProxy, MlflowServer

from softnce_ray.ranks_file import RANKS_FILE, write_ranks
from softnce_ray.results import StudyRecord, TrialKey
from softnce_ray.store import Store
from softnce_ray.tracking import Tracker, TrackingError, Unsent, final_status, load_results, sending, unsent_records
from softnce_ray.tracking import connection as connecting
from softnce_ray.tracking.connection import search_runs

pytestmark = [pytest.mark.slow, pytest.mark.long]

_numbers = itertools.count()
_EPOCHS = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with MlflowServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def proxy(server: MlflowServer) -> Iterator[FaultyProxy]:
    with FaultyProxy(server.uri) as between:
        yield between


@pytest.fixture
def store(proxy: FaultyProxy, tmp_path: Path) -> Store:
    return Store(tmp_path / "store", proxy.uri)


@pytest.fixture
def study() -> str:
    return f"outage{next(_numbers)}"


@pytest.fixture
def client(server: MlflowServer) -> MlflowClient:
    """Past the proxy."""
    return MlflowClient(tracking_uri=server.uri)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_LONGEST_PAUSE", 1.0)
    monkeypatch.setattr(sending, "_FIRST_PAUSE", 0.05)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")


@pytest.fixture
def ranks(tmp_path: Path) -> Callable[[], Path]:
    """Makes a file of ranks that is gone as soon as it was handed over, as checkpoints may be."""

    def make() -> Path:
        path = tmp_path / f"ranks{next(_numbers)}" / RANKS_FILE
        path.parent.mkdir()
        values = {"reciprocal_rank": {"test": np.array([0.5, 1.0])}, "graded_ndcg": {}}
        write_ranks(path, {"test": ["a", "b"]}, values)  # type: ignore[arg-type]
        return path

    return make


def opened(store: Store, study: str) -> Tracker:
    record = StudyRecord(study, "why?", "one", ("one",), ("python",), (1, 2, 3), "c", "c0ffee", "study: text\n")
    tracker = Tracker(store, record, versions={})
    tracker.arm_started("one", {"loss.name": "infonce"})
    return tracker


def key(seed: int) -> TrialKey:
    return TrialKey("one", "python", "confirm", seed, f"{seed:016}")


def write(tracker: Tracker, seed: int, ranks: Callable[[], Path]) -> None:
    """A whole trial."""
    tracker.trial_started(key(seed), {"training.epochs": _EPOCHS})
    for epoch in range(1, _EPOCHS + 1):
        tracker.epoch(key(seed), {"epoch": epoch, "best_valid_mrr": epoch / 10}, at=1_700_000_000_000 + epoch)
    file = ranks()
    tracker.trial_ended(key(seed), "FINISHED", metrics={"epoch": _EPOCHS, "test_mrr": 0.75}, ranks=file)
    file.unlink()


def runs(client: MlflowClient, study: str, role: str = "trial") -> list[Run]:
    experiment = client.get_experiment_by_name(study)
    assert experiment is not None
    found = search_runs(client, experiment.experiment_id, f"tags.role = '{role}'")
    return sorted(found, key=lambda run: run.data.tags.get("seed", ""))


def content(client: MlflowClient, study: str) -> list[Any]:
    """What there is of each trial."""
    return [
        (
            run.data.tags["seed"],
            run.info.status,
            dict(run.data.params),
            {
                name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            },
            [file.path for file in client.list_artifacts(run.info.run_id)],
        )
        for run in runs(client, study)
    ]


def whole(*seeds: int) -> list[Any]:
    metrics = {
        "epoch": [(1, 1.0), (2, 2.0), (3, 3.0)],
        "best_valid_mrr": [(1, 0.1), (2, 0.2), (3, 0.3)],
        "test_mrr": [(3, 0.75)],
    }
    return [(str(seed), "FINISHED", {"training.epochs": "3"}, metrics, [RANKS_FILE]) for seed in seeds]


def test_a_server_that_is_killed_and_comes_back_gets_everything_once(server, store, client, study, ranks) -> None:
    tracker = opened(store, study)
    write(tracker, 1, ranks)
    server.kill()
    write(tracker, 2, ranks)
    assert not tracker.wait(0.5)
    assert unsent_records(store, study) > 0
    server.start()
    write(tracker, 3, ranks)
    tracker.study_ended("FINISHED")
    assert tracker.close(60) == Unsent()
    assert content(client, study) == whole(1, 2, 3)
    assert {run.info.status for role in ("study", "arm") for run in runs(client, study, role)} == {"FINISHED"}
    assert [path.name for path in store.spool(study).rglob("*")] == ["lock"]


@pytest.mark.parametrize("fault", ["500", "429", "after", "401", "hang", "refuse"])
def test_a_server_that_fails_for_a_while_gets_everything_once(
    proxy, store, client, study, ranks, fault, monkeypatch
) -> None:
    """`after`: what was asked for was done, though the answer says not: runs would be made twice."""
    tracker = opened(store, study)
    begin: dict[str, Callable[[], None]] = {
        "500": lambda: proxy.fail_with(500, 0.5),
        "429": lambda: proxy.fail_with(429),
        "after": lambda: proxy.fail_after(500, 0.5),
        "401": lambda: proxy.fail_with(401),
        "hang": proxy.hang,
        "refuse": proxy.refuse,
    }
    monkeypatch.setattr(sending, "_TRIES", 1000)
    begin[fault]()
    for seed in (1, 2, 3):
        write(tracker, seed, ranks)
    tracker.study_ended("FINISHED")
    tracker.wait(4)
    proxy.pass_on()
    assert tracker.close(60) == Unsent()
    assert content(client, study) == whole(1, 2, 3)
    assert len(runs(client, study, "arm")) == len(runs(client, study, "study")) == 1


def test_what_could_not_be_sent_is_told_and_sent_later(proxy, store, client, study, ranks) -> None:
    tracker = opened(store, study)
    tracker.wait()
    proxy.refuse()
    write(tracker, 1, ranks)
    tracker.study_ended("KILLED")
    unsent = tracker.close(1)
    assert unsent
    assert (unsent.records, unsent.refused, unsent.problems) == (6, (), ("connection refused",))
    assert (unsent_records(store, study), final_status(store, study)) == (6, "KILLED")
    with pytest.raises(TrackingError, match="connection refused: see that it runs"):
        Tracker.to_sync(store, study)
    assert unsent_records(store, study) == 6
    proxy.pass_on()
    syncing = Tracker.to_sync(store, study)
    assert [run.info.status for run in (*runs(client, study, "study"), *runs(client, study, "arm"))] == ["KILLED"] * 2
    assert load_results(store, study).status == "KILLED"
    syncing.arm_summary("one", {"python_test_mrr": 0.75})
    syncing.study_summary({"trials": 1}, "# table")
    assert syncing.close() == Unsent()
    assert content(client, study) == whole(1)
    (arm,), (parent,) = runs(client, study, "arm"), runs(client, study, "study")
    assert (arm.data.metrics, arm.info.status) == ({"python_test_mrr": 0.75}, "KILLED")
    assert (parent.data.metrics, parent.info.status) == ({"trials": 1.0}, "KILLED")
    assert (unsent_records(store, study), final_status(store, study)) == (0, None)


def test_a_later_launch_sends_first_what_is_left(proxy, store, client, study, ranks) -> None:
    tracker = opened(store, study)
    tracker.wait()
    proxy.hang()
    write(tracker, 1, ranks)
    assert tracker.close(0.5) == Unsent(5, (), ("no answer in time",))
    proxy.pass_on()
    again = opened(store, study)
    assert {each.status for each in again.known().values()} == {"FINISHED"}
    assert again.close() == Unsent()
    assert content(client, study) == whole(1)


def test_a_record_that_the_server_refuses_is_put_aside_and_the_rest_goes_on(store, client, study, ranks) -> None:
    tracker = opened(store, study)
    tracker.trial_started(key(1), {"training.epochs": _EPOCHS})
    tracker.epoch(key(1), {"epoch": 1, "no such name!": 1.0})
    tracker.epoch(key(1), {"epoch": 2, "valid_mrr": 0.5})
    write(tracker, 2, ranks)
    unsent = tracker.close()
    assert (unsent.records, len(unsent.refused), unsent.problems) == (0, 1, ())
    assert unsent.refused[0].startswith("epoch one/python confirm seed 1 (0000000000000001): ")
    aside = json.loads((store.spool(study) / "refused.jsonl").read_text())
    assert aside["record"]["payload"]["metrics"]["no such name!"] == 1.0
    assert aside["reason"] in unsent.refused[0]
    assert content(client, study)[0][3] == {"epoch": [(2, 2.0)], "valid_mrr": [(2, 0.5)]}
    assert content(client, study)[1:] == whole(2)


def test_a_run_that_somebody_deletes_harms_no_other(store, client, study, ranks) -> None:
    tracker = opened(store, study)
    tracker.trial_started(key(1), {})
    tracker.wait()
    client.delete_run(runs(client, study)[0].info.run_id)
    tracker.epoch(key(1), {"epoch": 1})
    tracker.trial_ended(key(1), "FINISHED", ranks=ranks())
    write(tracker, 2, ranks)
    tracker.wait()
    assert content(client, study) == whole(2)
    write(tracker, 1, ranks)  # as a worker that begins it anew
    assert len(tracker.close().refused) == 2
    assert content(client, study) == whole(1, 2)


def test_epochs_that_wait_go_out_in_one_request(proxy, store, study) -> None:
    tracker = opened(store, study)
    tracker.trial_started(key(1), {})
    tracker.wait()
    proxy.refuse()
    for epoch in range(1, 101):
        tracker.epoch(key(1), {"epoch": epoch, **{f"metric{number}": 0.5 for number in range(9)}})
    before = len(proxy.requests)
    proxy.pass_on()
    assert tracker.close() == Unsent()
    assert 1 <= sum(path.endswith("log-batch") for _, path in proxy.requests[before:]) <= 3


def test_trials_do_not_wait_for_one_another(proxy, store, client, study, ranks) -> None:
    """Of six trials at a slow server no request waits for that of another trial."""
    tracker = opened(store, study)
    tracker.wait()
    proxy.delay = 0.3
    for seed in range(1, 7):
        write(tracker, seed, ranks)
    begin = time.monotonic()
    assert tracker.wait()
    took = time.monotonic() - begin
    print(f"6 trials at 0.3 s a request: {took:.1f} s, {len(proxy.requests)} requests")
    proxy.pass_on()
    assert tracker.close() == Unsent()
    assert content(client, study) == whole(*range(1, 7))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda proxy: proxy.refuse(), "connection refused: see that it runs"),
        (lambda proxy: proxy.hang(), "no answer in time: see that it runs"),
        (lambda proxy: proxy.fail_with(500), "HTTP status 500: see that it runs"),
        (lambda proxy: proxy.fail_with(401), "HTTP status 401: set MLFLOW_TRACKING_USERNAME"),
    ],
    ids=["refused", "hanging", "500", "401"],
)
def test_a_server_that_does_not_work_is_an_error_with_a_remedy(proxy, store, study, fault, said, monkeypatch) -> None:
    monkeypatch.setattr(connecting, "_SERVER_SECONDS", 2.0)
    fault(proxy)
    with pytest.raises(TrackingError, match=said) as caught:
        opened(store, study)
    assert "\n" not in str(caught.value)
    proxy.pass_on()
    assert opened(store, study).close() == Unsent()


def test_an_account_of_the_server_is_in_no_file_and_no_message(proxy, tmp_path, study, ranks) -> None:
    store = Store(tmp_path / "store", proxy.uri.replace("http://", "http://me:s3cret@"))
    tracker = opened(store, study)
    proxy.refuse()
    trace = f"requests.get({store.tracking_uri!r})"
    tracker.trial_started(key(1), {})
    tracker.trial_ended(key(1), "FAILED", failure=trace, traceback=trace)
    unsent = tracker.close(0.5)
    with pytest.raises(TrackingError) as caught:
        opened(store, study)
    shown = f"{unsent} {caught.value} {(store.spool(study) / 'journal.jsonl').read_text()}"
    assert "requests.get" in shown
    assert "s3cret" not in shown
