"""Export of studies and runs from a real store: chosen, checked against stored ranks, registered, served."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from remedies import printed, run_here
from servers import MlflowServer
from typer.testing import CliRunner

from softnce_ray.cli import app
from softnce_ray.corpus import Corpus, Pair, build_corpus, copy_corpus
from softnce_ray.corpus.trained_on import read_trained_on
from softnce_ray.errors import UserError
from softnce_ray.export import FORMATS, ExportError, export, load_export, write_export
from softnce_ray.export.cards import served
from softnce_ray.export.choosing import Chosen, trial_of_study
from softnce_ray.export.evaluated import find_corpus
from softnce_ray.model import save_model
from softnce_ray.retrieval import open_embedder
from softnce_ray.selection import as_plain, best
from softnce_ray.store import Store
from softnce_ray.tracking import TrackingError, load_results
from softnce_ray.tracking.models import register
from softnce_ray.tracking.selecting import record_choice

from .conftest import Kept, keep

TEXTS = ["Parse the date of every customer.", "def decode_calendar(buyers):\n    return buyers", "", "<pad> lamp"]
NEEDS_ONNX = pytest.mark.skipif(
    FORMATS["onnx"].problem(None) is not None,  # type: ignore[arg-type]
    reason="onnx, onnxruntime and onnxscript are not installed",
)


@pytest.fixture
def client(kept: Kept) -> MlflowClient:
    return MlflowClient(tracking_uri=kept.store.tracking_uri)


@NEEDS_ONNX
@pytest.mark.slow
def test_every_format_of_a_study_is_read_by_a_fresh_process_and_gives_vectors_and_stored_ranks(
    kept: Kept, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = export("bags", "best", store=kept.store, formats=list(FORMATS), int8=True)
    model = kept.results["bags"].model
    assert list(done.formats) == list(FORMATS)
    for name, checked in done.checked.items():
        assert (checked.queries, checked.vectors) == (30, 16 + 30 + len(codes_of(kept)))
        assert checked.stored_mrr == pytest.approx(kept.results["bags"].metrics["test_mrr"])
        if "int8" not in name:
            assert (checked.other_ranks, checked.mrr) == (0, checked.stored_mrr)
    assert done.largest_difference < 1e-6
    assert json.loads((tmp_path / "best" / "export.json").read_text())["formats"]["hf"]["other_ranks"] == 0
    trained_on = read_trained_on(tmp_path / "best" / "hf")
    assert trained_on is not None
    manifest = Corpus.open(kept.corpus).manifest
    assert trained_on.packages == {"python": sorted(manifest.languages["python"].packages["train"])}
    assert trained_on.corpus == manifest.fingerprint
    np.testing.assert_allclose(
        load_export(tmp_path / "best" / "hf").encode_queries(TEXTS), model.encode_queries(TEXTS), atol=1e-6
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best"]  # no store of MLflow's own beside it

    assert done.registered == ("bags", "1", None)
    version = client.get_model_version_by_alias("bags", "champion")
    assert (str(version.version), version.run_id, version.tags["arm"]) == ("1", kept.runs["bags"], "plain")
    again = export("bags", "again", store=kept.store, formats=["mlflow"], register="bags")
    assert again.registered == ("bags", "2", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", kept.store.tracking_uri)
    served = mlflow.pyfunc.load_model("models:/bags@champion")
    for side, expected in (("query", model.encode_queries(TEXTS)), ("code", model.encode_codes(TEXTS))):
        frame = pd.DataFrame({"text": TEXTS})
        series = pd.Series(TEXTS)
        for given in (
            TEXTS,
            np.array(TEXTS),
            series,
            series.rename("text"),
            frame,
            {"text": TEXTS},
            frame.to_dict("records"),
        ):
            got = served.predict(given, params={"side": side})
            np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(served.predict(TEXTS[0]), model.encode_codes(TEXTS[:1]), atol=1e-5)
    for given, says in (
        (frame.assign(id="7")[["id", "text"]], r"column text, got column 'id': give frame\[\['text'\]\]"),
        (pd.DataFrame({"query": TEXTS}), "column text, got column 'query'"),
        ([TEXTS[0], None], "expected texts, got"),
    ):
        with pytest.raises(ValueError, match=says):
            served.predict(given)


def codes_of(kept: Kept) -> list[str]:
    from softnce_ray.corpus import Corpus

    corpus = Corpus.open(kept.corpus)
    parts = [corpus.table("python", split, columns=["code"]) for split in ("valid", "test", "codebase")]
    return [code for part in parts for code in part.column("code").to_pylist()]


@NEEDS_ONNX
@pytest.mark.slow
def test_a_server_of_mlflow_answers_a_query_with_the_vector_of_the_training_code(kept: Kept, tmp_path: Path) -> None:
    export(kept.runs["attention"], tmp_path / "served", store=kept.store, formats=["mlflow"], register="served")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (printed,) = [line for line in served(str(tmp_path / "served")).splitlines() if line.startswith("mlflow ")]
    command = [sys.executable, "-m", *shlex.split(printed.replace("5001", str(port)))]
    options = ["--host", "127.0.0.1", "--workers", "1"]
    with (tmp_path / "log").open("w") as log:
        # MLflow starts uvicorn by its name: the environment's programs must be on the path, active or not.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        server = subprocess.Popen(
            [*command, *options],
            stdout=log,
            stderr=log,
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", server, tmp_path / "log")
        for texts in (
            {"dataframe_records": [{"text": text} for text in TEXTS]},
            {"dataframe_split": {"columns": ["text"], "data": [[text] for text in TEXTS]}},
            {"inputs": TEXTS},
        ):
            body = json.dumps({**texts, "params": {"side": "query"}}).encode()
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                vectors = json.load(answer)["predictions"]
            np.testing.assert_allclose(vectors, kept.results["attention"].model.encode_queries(TEXTS), atol=1e-5)
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def command(*arguments: object) -> Any:
    done = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


@NEEDS_ONNX
@pytest.mark.slow
@pytest.mark.long
def test_an_export_becomes_champion_of_a_server_which_hands_it_out(
    kept: Kept, mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store", mlflow_server.uri)
    runs = keep(store, "remote", {"plain": kept.results["bags"]}, kept.corpus)
    asked = ("--formats", "mlflow", "--store", store.root, "--tracking-uri", store.tracking_uri)
    first = command("export", "remote", "--to", tmp_path / "first", *asked)
    assert first.stdout.splitlines()[-1] == "registered remote version 1, champion"
    again = command("export", runs["plain"], "--to", tmp_path / "again", "--register", "remote", *asked)
    assert again.stdout.splitlines()[-1] == "registered remote version 2, champion in place of version 1"
    client = MlflowClient(tracking_uri=store.tracking_uri)
    version = client.get_model_version_by_alias("remote", "champion")
    assert (str(version.version), version.run_id, version.tags["arm"]) == ("2", runs["plain"], "plain")
    shutil.rmtree(tmp_path / "first")
    shutil.rmtree(tmp_path / "again")  # what is loaded comes from the server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.tracking_uri)
    served = mlflow.pyfunc.load_model("models:/remote@champion")
    got = served.predict(pd.DataFrame({"text": TEXTS}), params={"side": "query"})
    np.testing.assert_allclose(got, kept.results["bags"].model.encode_queries(TEXTS), atol=1e-5)


@pytest.mark.slow
def test_a_run_is_exported_by_its_id_with_the_command(kept: Kept, tmp_path: Path) -> None:
    run = kept.runs["both/bag"]
    done = command("export", run, "--to", tmp_path / "best", "--formats", "hf", "--store", kept.store.root)
    assert f"{tmp_path / 'best'}: bag/python seed 0" in done.stdout and "30 of 30 ranks as stored" in done.stdout
    assert "bag/python seed 0: the run that was asked for" in done.stderr
    assert "asked for by its id" in (tmp_path / "best" / "README.md").read_text()
    np.testing.assert_allclose(
        load_export(tmp_path / "best").encode_queries(TEXTS),
        kept.results["both/bag"].model.encode_queries(TEXTS),
        atol=1e-6,
    )


@pytest.fixture
def chosen_bag(kept: Kept, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of the study `both` in which `best` recorded the small arm, though the other one is better."""
    root = tmp_path_factory.mktemp("chosen")
    store = Store(root, f"sqlite:///{root}/mlflow.db")
    keep(store, "both", {"bag": kept.results["both/bag"], "mean": kept.results["both/mean"]}, kept.corpus)
    sizes = {}
    for arm in ("bag", "mean"):
        (root / arm).mkdir()
        save_model(kept.results[f"both/{arm}"].model, root / arm)
        sizes[arm] = sum(path.stat().st_size for path in (root / arm).iterdir())
    assert sizes["bag"] < sizes["mean"]
    (choice,) = best("both", store=store, max_size_mb=(sizes["bag"] + sizes["mean"]) / 2e6)
    assert choice.chosen.arm == "bag"
    return store


def chosen_of(store: Store, **options: Any) -> Chosen:
    asked = {"arm": None, "language": None, "rule": None, **options}
    return trial_of_study(store, load_results(store, "both"), **asked)


def test_what_best_has_recorded_is_exported_while_its_trials_are_the_current_ones(
    kept: Kept, chosen_bag: Store
) -> None:
    plain = chosen_of(kept.store)
    assert plain.trial.arm == "mean"
    recording = kept.store.command("best", "both", "--rule", "one-standard-error")
    assert plain.how.endswith(f"best mean validation MRR; `{recording}` records another choice")
    recorded = chosen_of(chosen_bag)
    assert recorded.trial.arm == chosen_of(chosen_bag, rule="recorded").trial.arm == "bag"
    assert "recorded (rule best, metric mrr, at most 0.0" in recorded.how and "--rule best takes" in recorded.how
    assert "Chosen by validation alone (rule best, metric mrr, at most" in recorded.why
    for options, says in (
        ({"rule": "best"}, "as --rule says; without it the choice that best has recorded"),
        ({"arm": "mean"}, "the best seed of arm mean by validation MRR, as --arm says"),
    ):
        other = chosen_of(chosen_bag, **options)
        assert other.trial.arm == "mean" and says in other.how
    assert chosen_of(chosen_bag, arm="bag").trial.run_id == recorded.trial.run_id

    parts = {"bag": kept.results["both/bag"], "mean": kept.results["both/mean"], "late": kept.results["both/bag"]}
    keep(chosen_bag, "both", parts, kept.corpus)
    stale = chosen_of(chosen_bag)
    assert stale.trial.arm == "late"
    assert "recorded choice (bag, rule best, metric mrr, at most" in stale.how
    again = chosen_bag.command("best", "both")
    assert f"was made of other trials than there are now: `{again}` chooses again" in stale.how
    with pytest.raises(ExportError, match=r"expected a choice .* got one that was made of other trials"):
        chosen_of(chosen_bag, rule="recorded")
    run_here(*printed(stale.how))
    assert "recorded (rule best, metric mrr)" in chosen_of(chosen_bag, rule="recorded").how
    (recording,) = printed(plain.how)
    run_here(recording.replace(str(kept.store.root), str(chosen_bag.root)))
    assert "recorded (rule one-standard-error" in chosen_of(chosen_bag, rule="recorded").how


def test_a_recorded_choice_that_is_wanted_must_be_there_and_keep_a_model(kept: Kept, chosen_bag: Store) -> None:
    with pytest.raises(ExportError, match=r"recorded for python of study both, got none: `softnce-ray best both"):
        chosen_of(kept.store, rule="recorded")
    with pytest.raises(ExportError, match="give no --arm"):
        chosen_of(kept.store, rule="recorded", arm="bag")
    with pytest.raises(ExportError, match="recorded or best, got 'cheapest'"):
        chosen_of(kept.store, rule="cheapest")
    (choice,) = best("both", store=chosen_bag)
    other = next(each for each in choice.chosen.trials if each.run_id != choice.trial.run_id)
    record = {**as_plain(choice), "run_id": other.run_id}
    record_choice(chosen_bag, "both", "python", other.run_id, json.dumps(record))
    with pytest.raises(ExportError, match=rf"recorded choice is .* seed {other.seed} .* keeps no model.*--rule best"):
        chosen_of(chosen_bag)


@pytest.mark.slow
def test_what_best_prints_exports_its_choice(chosen_bag: Store, tmp_path: Path) -> None:
    said = command("best", "both", "--store", chosen_bag.root).stdout
    (following,) = re.findall("^Next: (.*)$", said, re.MULTILINE)
    run_here(following, DIR=tmp_path / "made here")
    assert (tmp_path / "made here" / "README.md").is_file()


@pytest.mark.slow
def test_the_command_says_which_choice_it_took_and_how_to_get_the_other(chosen_bag: Store, tmp_path: Path) -> None:
    asked = ("--formats", "hf", "--no-ranks", "--store", chosen_bag.root)
    done = command("export", "both", "--to", tmp_path / "best", *asked)
    assert "bag/python seed 0: as best has recorded (rule best, metric mrr, at most" in done.stderr
    assert "--rule best takes the best mean MRR" in done.stderr
    assert "bag/python seed 0, valid MRR" in done.stdout


_KILLED = """
import os, signal, sys
from pathlib import Path
from softnce_ray import folders
from softnce_ray.export.fresh import in_this_process
from softnce_ray.export.exporting import write_export
from softnce_ray.model import load_model

def killed_between(work, final, old, may_go):
    os.rename(final, old)
    os.kill(os.getpid(), signal.SIGKILL)

folders._put = killed_between
write_export(load_model(Path(sys.argv[1])), Path(sys.argv[2]), "new", replace=True)
"""


@pytest.mark.slow
@pytest.mark.long
def test_an_export_whose_replacement_was_killed_is_back_with_the_next_command(kept: Kept, tmp_path: Path) -> None:
    model, target = kept.results["bags"].model, tmp_path / "exports" / "best"
    write_export(model, target, "earlier")
    (tmp_path / "model").mkdir()
    save_model(model, tmp_path / "model")
    killed = subprocess.run([sys.executable, "-c", _KILLED, tmp_path / "model", target], timeout=240)
    assert killed.returncode == -9 and not target.exists()
    assert open_embedder(target).folder == target  # what reads it finds it
    assert [path.name for path in target.parent.iterdir()] == ["best"]
    subprocess.run([sys.executable, "-c", _KILLED, tmp_path / "model", target], timeout=240)
    with pytest.raises(ExportError, match="something already"):
        export("bags", target, store=kept.store)
    assert (target / "README.md").read_text() == "earlier"
    write_export(model, target, "new", replace=True)
    assert (target / "README.md").read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["best"]


@pytest.mark.slow
def test_one_format_is_the_folder_itself_with_a_card_of_what_is_known(kept: Kept, tmp_path: Path) -> None:
    done = export("attention", tmp_path / "best", store=kept.store)
    assert done.formats == {"sentence-transformers": tmp_path / "best"}
    assert (done.trial.run_id, done.registered) == (kept.runs["attention"], None)
    trained_on = read_trained_on(tmp_path / "best")
    assert trained_on is not None
    assert trained_on.corpus == Corpus.open(kept.corpus).fingerprint
    card = (tmp_path / "best" / "README.md").read_text()
    assert "| plain | python | 2/2 |" in card
    assert f"| test_mrr | {kept.results['attention'].metrics['test_mrr']:.4f} |" in card
    assert "unknown: each function under its package's licence" in card
    assert "license:" not in card
    assert "Chosen by validation MRR" in card
    assert "All 30 queries have the rank that the run stored" in card
    assert FORMATS["sentence-transformers"].recipe(kept.results["attention"].model) in card


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"formats": ["hf", "gguf"]}, r"got 'gguf'; possible: hf, sentence-transformers, onnx, mlflow"),
        ({"formats": [""]}, "got ''; possible: hf"),
        ({"formats": []}, "got none"),
        ({"int8": True}, "expected onnx among --formats"),
        ({"formats": ["onnx"], "int8": True, "ranks": False}, "leave out --no-ranks"),
        ({"register": "name"}, "expected mlflow among --formats"),
        ({"study": "0" * 32}, "no run 0000.* in sqlite"),
        ({"study": "nothing"}, "no study 'nothing'.*possible: "),
        ({"study": "RUN", "arm": "plain"}, "is one trial: give no --arm"),
        ({"study": "RUN", "rule": "best"}, "is one trial: give no .*--rule"),
        ({"study": "PARENT"}, "expected the run of a trial, got .*, which is the run of study"),
        ({"study": "OTHER"}, "keeps no model: only the best trial"),
        ({"corpus": "/nowhere"}, "expected a corpus folder at /nowhere"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line_and_nothing_is_written(
    options: dict[str, Any], said: str, kept: Kept, client: MlflowClient, tmp_path: Path
) -> None:
    run = client.get_run(kept.runs["bags"])
    runs = client.search_runs([run.info.experiment_id])
    (other,) = [
        each.info.run_id for each in runs if each.data.tags["role"] == "trial" and each.info.run_id != kept.runs["bags"]
    ]
    (parent,) = [each.info.run_id for each in runs if each.data.tags["role"] == "study"]
    names = {"RUN": kept.runs["bags"], "OTHER": other, "PARENT": parent}
    arguments = {"study": "bags", **options}
    study = names.get(arguments.pop("study"), options.get("study", "bags"))
    with pytest.raises(UserError, match=said) as caught:
        export(study, tmp_path / "best", store=kept.store, **arguments)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_another_corpus_than_the_studys_is_refused(kept: Kept, tiny_pairs: list[Pair], tmp_path: Path) -> None:
    build_corpus(tiny_pairs[1:], tmp_path / "other", valid=30, test=30, codebase=20)
    with pytest.raises(ExportError, match=r"expected the corpus .* got .* --corpus, or --no-ranks"):
        export("bags", tmp_path / "best", store=kept.store, corpus=tmp_path / "other")


def test_a_corpus_is_found_at_its_address_from_here_and_from_beside_the_store(
    kept: Kept, tiny_pairs: list[Pair], bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{bucket}/corpus"
    content = copy_corpus(kept.corpus, place).fingerprint
    root = tmp_path / "project" / "store"
    assert find_corpus(None, place, root, content).location == place
    assert find_corpus(place, "elsewhere", root, content).location == place
    copy_corpus(place, root.parent / "corpora" / "mine")
    assert find_corpus(None, "corpora/mine", root, content).folder == root.parent / "corpora" / "mine"
    monkeypatch.chdir(tmp_path)
    build_corpus(tiny_pairs[1:], "corpora/mine", valid=30, test=30, codebase=20)  # of the same name, and not it
    assert find_corpus(None, "corpora/mine", root, content).folder == root.parent / "corpora" / "mine"
    copy_corpus(place, tmp_path / "here")
    assert find_corpus(None, "here", root, content).folder == Path("here")
    for recorded, said in (
        (f"{bucket}/none", rf"corpus at {bucket}/none, which cannot be opened: expected a corpus at .*, got nothing"),
        ("s3://no-such-bucket-here/c", "cannot be opened: expected a bucket that exists"),
        ("none", "cannot be opened: expected a corpus folder at none, got nothing"),
    ):
        with pytest.raises(ExportError, match=rf"{said}.*--corpus, or --no-ranks") as caught:
            find_corpus(None, recorded, root, content)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_study_whose_corpus_lies_in_an_object_store_is_exported_with_its_ranks_checked(
    kept: Kept, bucket: str, tmp_path: Path
) -> None:
    place = f"{bucket}/corpus"
    copy_corpus(kept.corpus, place)
    store = Store(tmp_path / "store", f"sqlite:///{tmp_path}/store/mlflow.db")
    keep(store, "remote", {"plain": kept.results["bags"]}, place)
    done = command("export", "remote", "--to", tmp_path / "best", "--formats", "hf", "--store", store.root)
    assert "30 of 30 ranks as stored" in done.stdout
    given = ("--corpus", place, "--overwrite")
    again = command("export", "bags", "--to", tmp_path / "best", "--formats", "hf", "--store", kept.store.root, *given)
    assert "30 of 30 ranks as stored" in again.stdout
    (tmp_path / "best" / "notes.md").write_text("what I think of it")
    with pytest.raises(ExportError, match=r"got notes.md: move"):
        export("remote", tmp_path / "best", store=store, formats=["hf"], overwrite=True)
    assert (tmp_path / "best" / "notes.md").read_text() == "what I think of it"


def test_what_is_no_export_of_ours_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    for to in (tmp_path / "mine", tmp_path / "missing" / ".." / "mine", tmp_path / "a" / "b" / ".." / ".." / "mine"):
        for overwrite in (False, True):
            with pytest.raises(ExportError, match="mine"):
                export("any", to, store=Store.at(tmp_path / "store"), overwrite=overwrite)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_a_registered_model_of_another_is_left_alone(kept: Kept, client: MlflowClient, tmp_path: Path) -> None:
    client.create_registered_model("theirs")
    with pytest.raises(TrackingError, match=r"'theirs' is not one of ours: give another --register"):
        export("bags", tmp_path / "best", store=kept.store, formats=["mlflow"], register="theirs")
    assert client.get_registered_model("theirs").aliases == {}


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*args: Any) -> None:
        raise MlflowException("the database is locked")

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", refuse)
    yield


def test_a_registration_that_fails_at_its_last_step_is_taken_back(
    kept: Kept, client: MlflowClient, tmp_path: Path, refusing: None
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text("")
    experiment = client.get_run(kept.runs["bags"]).info.experiment_id
    before = {model.model_id for model in client.search_logged_models([experiment])}
    with pytest.raises(TrackingError, match=r"refuses to register 'new': the database is locked"):
        register(kept.store, tmp_path / "model", "new", run_id=kept.runs["bags"], tags={})
    assert {model.model_id for model in client.search_logged_models([experiment])} == before
    assert "new" not in {each.name for each in client.search_registered_models()}
