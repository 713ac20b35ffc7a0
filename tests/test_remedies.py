"""Remedies are commands that work as they are printed: each that a message can have is executed by a test."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from packaging.requirements import Requirement
from remedies import ROOT, printed, run_here, typed
from servers import free_port

from softnce_ray.cli.options import on_cluster
from softnce_ray.config import TrialConfig
from softnce_ray.corpus import Corpus, CorpusError, Pair, source_folder
from softnce_ray.errors import UserError
from softnce_ray.export import write_export
from softnce_ray.model import ExportError, load_export
from softnce_ray.preparation import open_data, prepare
from softnce_ray.results import StudyRecord, TrialKey
from softnce_ray.retrieval import Index, RetrievalError, open_embedder
from softnce_ray.store import Store
from softnce_ray.study.jobs import JobError
from softnce_ray.tracking import Tracker, serving, studies, unsent_records
from softnce_ray.training import train

PACKAGE = ROOT / "softnce_ray"
RECORD = StudyRecord("study", "why?", "one", ("one",), ("python",), (1,), "c", "c0ffee", "study: text\n")

# Where a command is written, how it begins, and the test that executes it as it is printed.
EXECUTED = {
    ("cli/jobs.py", "logs"): "study/test_jobs.py::test_two_studies_share_a_cluster",
    ("cli/jobs.py", ""): "study/test_jobs.py::test_two_studies_share_a_cluster",
    ("cli/options.py", "softnce-ray submit"): "test_an_address_of_a_jobs_server",
    ("cli/searching.py", "softnce-ray index"): "test_an_index_that_is_named",
    ("cli/selection.py", "export"): "export/test_export_studies.py::test_what_best_prints_exports_its_choice",
    ("cli/studies.py", "sync"): "test_what_names_a_store_again",
    ("cli/studies.py", "ui"): "test_what_names_a_store_again",
    ("cli/studies.py", "report"): "test_cli.py::test_from_source_code_to_an_answer",
    (
        "corpus/build.py",
        "softnce-ray corpus copy",
    ): "test_storage.py::test_a_corpus_is_made_here_and_copied",
    ("corpus/manifest.py", "softnce-ray corpus mine"): "test_a_corpus_that_is_not_there",
    (
        "corpus/store.py",
        "softnce-ray corpus copy",
    ): "test_storage.py::test_a_corpus_is_made_here_and_copied",
    ("encoders/adapting.py", "pip install"): "test_extras",
    ("export/cards.py", "mlflow models serve"): "export/test_export_studies.py::test_a_server_of_mlflow",
    ("export/choosing.py", "best"): "export/test_export_studies.py::test_what_best_has_recorded",
    ("export/onnx_graph.py", "pip install"): "test_extras",
    ("model.py", "softnce-ray export"): "test_what_an_export_is_made_with",
    ("named.py", "pip install"): "test_extras",
    ("retrieval/embedding.py", "softnce-ray export"): "test_what_an_export_is_made_with",
    ("retrieval/index.py", "softnce-ray index"): "test_an_index_that_is_named",
    ("store.py", "softnce-ray"): "test_what_names_a_store_again",
    ("study/again.py", "resume"): "study/test_interrupts.py::test_who_waits_for_nodes",
    ("study/costs.py", "launch"): "study/test_calibrating.py::test_a_study_that_is_sent",
    ("study/doctor/networks.py", "pip install"): "test_extras",
    ("study/doctor/tracking.py", "pip install"): "test_extras",
    ("study/jobs/checking.py", "softnce-ray corpus copy"): "test_storage.py::test_a_corpus_is_made_here_and_copied",
    ("study/jobs/client.py", "softnce-ray"): "study/test_jobs.py::test_two_studies_share_a_cluster",
    ("study/jobs/client.py", "pip install"): "test_extras",
    ("study/jobs/sending.py", "softnce-ray"): "study/test_jobs.py::test_two_studies_share_a_cluster",
    ("study/jobs/sending.py", "softnce-ray launch"): "study/test_calibrating.py::test_a_study_that_is_sent",
    ("study/jobs/sending.py", "ray job delete"): "study/test_jobs.py::test_two_studies_share_a_cluster",
    ("study/jobs/sending.py", "stop"): "study/test_jobs.py::test_two_studies_share_a_cluster",
    ("study/samplers.py", "pip install"): "test_extras",
    ("study/storage.py", "cp"): "test_schemas.py::test_older_searches",
    ("study/storage.py", "optuna storage upgrade"): "test_schemas.py::test_older_searches",
    ("tracking/connection.py", "resume"): "study/test_interrupts.py::test_who_waits_for_nodes",
    ("tracking/connection.py", "mlflow experiments restore"): "test_a_deleted_experiment",
    ("tracking/files.py", "mlflow runs delete"): "test_tracking.py::test_a_finished_trial_whose_ranks_are_damaged",
    ("tracking/moved.py", "cp"): "test_moved_stores.py::test_a_copied_link",
    ("tracking/moved.py", "mkdir"): "test_moved_stores.py::test_a_database_that_was_copied_alone",
    ("tracking/moved.py", "rm"): "test_moved_stores.py::test_a_copied_link",
    ("tracking/schema.py", "cp"): "test_schemas.py::test_an_older_database",
    ("tracking/schema.py", "mlflow db upgrade"): "test_schemas.py::test_an_older_database",
}

_COMMAND = re.compile(
    r"softnce-ray (launch|resume|extend|sync|submit|status|logs|stop|doctor|report|best|export|index|search|evaluate|ui"
    r"|schema|corpus)\b|\b(mlflow (db|experiments|runs|server|ui|models|gc)|ray (start|stop|status|job|up)"
    r"|optuna (storage|studies)|pip install|cp -a|rm -|mkdir -|apt-get install)\b"
)
_NO_REMEDIES = {  # words that a program runs itself or that name it
    ("study/again.py", "softnce-ray submit"),
    ("study/run.py", "see  softnce-ray"),
}


def begins(words: Sequence[ast.expr]) -> str:
    """Return the program and its verbs, as far as a call has them written out."""
    found: list[str] = []
    for each in words[:3]:
        if not (isinstance(each, ast.Constant) and re.fullmatch("[a-z][a-z-]*", str(each.value))):
            break
        found.append(str(each.value))
    return " ".join(found)


@cache
def nodes() -> tuple[tuple[str, ast.AST], ...]:
    """The syntax of the whole package, and where each part of it stands; docstrings left out."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        place = path.relative_to(PACKAGE).as_posix()
        found += [(place, node) for node in ast.walk(tree) if id(node) not in docstrings]
    return tuple(found)


def test_every_command_of_a_message_is_executed_by_a_test() -> None:
    found = set()
    for place, node in nodes():
        match node:
            case ast.Call(func=(ast.Name("command") | ast.Attribute(_, "command")) as called, args=[_, *_] as words):
                if not ast.unparse(called).startswith("app."):
                    found.add((place, begins(words)))
    found -= {("corpus/fetching.py", "")}  # runs it
    assert found - EXECUTED.keys() == set()
    assert EXECUTED.keys() - found == set()
    for name in EXECUTED.values():
        file, _, test = name.rpartition("::")
        text = (ROOT / "tests" / (file or Path(__file__).name)).read_text(encoding="utf-8")
        assert re.search(rf"def {test}", text), name


def test_no_message_has_a_command_that_was_written_by_hand() -> None:
    by_hand = [
        f"{place}:{node.lineno}: {each[0]}"
        for place, node in nodes()
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for each in _COMMAND.finditer(node.value)
        if not any(place == file and text in node.value for file, text in _NO_REMEDIES)
    ]
    assert by_hand == []


# --- those that are executed here ---


@pytest.fixture(scope="module")
def model(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported bag, in a folder whose name a shell would split."""
    root = tmp_path_factory.mktemp("model")
    training = {"epochs": 0, "batch_size": 16}
    config = TrialConfig.model_validate(
        {"language": "python", "seed": 0, "encoder": {"kind": "bag", "width": 8}, "training": training}
    )
    trained = train(config, open_data(prepare(config, tiny_corpus, "python", root), config, "python")).model
    write_export(trained, root / "a b#c", "card")
    return root / "a b#c"


@pytest.fixture
def source(tiny_pairs: list[Pair], tmp_path: Path) -> Path:
    (tmp_path / "of mine").mkdir()
    (tmp_path / "of mine" / "module.py").write_text("\n\n\n".join(pair.code for pair in tiny_pairs[:9]) + "\n")
    return tmp_path / "of mine"


def test_an_index_that_is_named_or_damaged_is_made_as_is_printed(model, source, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "an index"
    with pytest.raises(RetrievalError) as caught:
        Index.open(place)
    run_here(*printed(str(caught.value)), DIR=source, MODEL=model)
    (place / "vectors.npy").write_bytes(b"damaged")
    with pytest.raises(RetrievalError) as caught:
        Index.open(place)
    run_here(*printed(str(caught.value)), DIR=source, MODEL=model)
    about = (place / "index.json").read_text()
    (place / "index.json").write_text(about.replace('"format": 1', '"format": 99'))
    with pytest.raises(RetrievalError, match="format 1") as caught:
        Index.open(place)
    run_here(*printed(str(caught.value)), DIR=source, MODEL=model)
    changed = {**json.loads(about), "model": "0" * 64}
    del changed["checksum"]  # a change that is meant
    (place / "index.json").write_text(json.dumps(changed))
    with pytest.raises(RetrievalError, match="made with") as caught:
        Index.open(place).embedder()
    run_here(*printed(str(caught.value)))
    assert Index.open(place).embedder().folder == model
    with pytest.raises(UserError, match="is a model") as refused:
        run_here(f"softnce-ray search '{model}' query")
    run_here(*printed(str(refused.value)), DIR=source, INDEX="second")
    with pytest.raises(UserError, match="--hybrid") as refused:
        run_here(f"softnce-ray search '{model}' query --hybrid --corpus '{source}'")
    run_here(*printed(str(refused.value)), INDEX="third")
    assert len(Index.open("second").vectors) == len(Index.open("third").vectors) == 9


def test_a_corpus_that_is_not_there_is_made_as_is_printed(source, tmp_path, monkeypatch) -> None:
    place = tmp_path / "no corpus"
    with pytest.raises(CorpusError) as caught:
        Corpus.open(place)
    monkeypatch.setattr("softnce_ray.corpus.python_environment", lambda language: source_folder(source, language))
    with pytest.raises(CorpusError, match="'no_documentation': 9"):  # it reads what it is to read
        run_here(*printed(str(caught.value)))


def test_what_an_export_is_made_with(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for read in (lambda: load_export(tmp_path / "empty"), lambda: open_embedder(tmp_path / "none")):
        with pytest.raises(ExportError) as caught:
            read()
        with pytest.raises(UserError, match="no store at"):
            run_here(*printed(str(caught.value)), STUDY="study")


def test_an_address_of_a_jobs_server_is_that_of_submit(tiny_corpus, tmp_path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    study = {
        "study": "tiny",
        "corpus": str(tiny_corpus),
        "languages": ["python"],
        "seeds": [1],
        "arms": {"infonce": {}},
    }
    (tmp_path / "a study.yaml").write_text(yaml.safe_dump(study))
    with pytest.raises(UserError) as caught:
        on_cluster(address)
    with pytest.raises(JobError, match="nobody answers at"):
        run_here(*printed(str(caught.value)), **{"STUDY.yaml": tmp_path / "a study.yaml"})


@pytest.mark.parametrize("given", [True, False], ids=["by options", "by the environment"])
def test_what_names_a_store_again_is_understood_by_each_command(given: bool, tmp_path, monkeypatch) -> None:
    root, database = tmp_path / "a b#c", tmp_path / "runs of mine.db"
    uri = f"sqlite:///{database}"
    if given:
        store = Store.at(root, uri)
    else:
        monkeypatch.setenv("SOFTNCE_STORE", str(root))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        store = Store.at()
    tracker = Tracker(store, RECORD, versions={})
    assert tracker._sender is not None
    tracker._sender.stop()
    tracker.arm_started("one", {"loss.name": "infonce"})
    tracker.trial_started(TrialKey("one", "python", "confirm", 1, "0" * 16), {})
    tracker.abandon()
    assert unsent_records(store, "study") == 2
    assert ("--store" in store.command("sync", "study")) == given
    run_here(store.command("sync", "study"))
    assert unsent_records(store, "study") == 0
    run_here(store.command("report", "study"))
    called: list[str] = []
    monkeypatch.setattr(serving.os, "execv", lambda program, words: called.extend(words))
    own = Store.at(root)
    if given:
        shutil.copy(database, root / "mlflow.db")
        run_here(own.command("ui"))
        assert own.artifact_root in called


def test_a_deleted_experiment_is_called_so_by_every_command_and_restored_as_is_printed(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store.at(tmp_path / "a b#c")
    Tracker(store, RECORD, versions={}).close()
    client = MlflowClient(store.tracking_uri)
    experiment = client.get_experiment_by_name("study")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    said = set()
    for command in ("report study", "best study", "power study", "sync study", "export study --to out"):
        with pytest.raises(UserError, match="experiment 'study' was deleted") as caught:
            run_here(f"softnce-ray {command} --store '{store.root}'")
        said.add(str(caught.value))
    with pytest.raises(UserError) as caught:
        Tracker(store, RECORD, versions={})
    (message,) = {*said, str(caught.value)}
    (restore,) = printed(message)
    typed(restore, tmp_path)
    assert studies(store) == ["study"]


def test_extras_that_messages_name_are_those_of_the_package() -> None:
    extras = set(importlib.metadata.metadata("softnce-ray").get_all("Provides-Extra") or ())
    named = []
    for _, node in nodes():
        match node:
            case ast.Call(ast.Name("command"), [ast.Constant("pip"), ast.Constant("install"), ast.Constant(what)]):
                named.append(Requirement(str(what)))
    assert {each.name for each in named} == {"softnce-ray", "psycopg"}
    assert set().union(*(each.extras for each in named if each.name == "softnce-ray")) <= extras
