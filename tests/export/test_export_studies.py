"""Export of studies and runs from a real store: chosen, checked against stored ranks, registered, served."""

from __future__ import annotations

import json
import os
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

from softnce_ray.corpus import Pair, build_corpus
from softnce_ray.errors import UserError
from softnce_ray.export import FORMATS, ExportError, export, load_export
from softnce_ray.store import Store
from softnce_ray.tracking import TrackingError
from softnce_ray.tracking.models import register

from .conftest import Kept

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
        got = served.predict(pd.DataFrame({"text": TEXTS}), params={"side": side})
        np.testing.assert_allclose(got, expected, atol=1e-5)


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
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(tmp_path / "served")]
    options = ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
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
        body = {"dataframe_records": [{"text": text} for text in TEXTS], "params": {"side": "query"}}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            vectors = json.load(answer)["predictions"]
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)
    np.testing.assert_allclose(vectors, kept.results["attention"].model.encode_queries(TEXTS), atol=1e-5)


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.mark.slow
def test_one_format_is_the_folder_itself_with_a_card_of_what_is_known(kept: Kept, tmp_path: Path) -> None:
    done = export("attention", tmp_path / "best", store=kept.store)
    assert done.formats == {"sentence-transformers": tmp_path / "best"}
    assert (done.trial.run_id, done.registered) == (kept.runs["attention"], None)
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


def test_what_is_no_export_of_ours_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ExportError, match="mine"):
            export("any", tmp_path / "mine", store=Store.at(tmp_path / "store"), overwrite=overwrite)
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
