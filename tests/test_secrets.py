"""Passwords appear nowhere, names lead nowhere, nothing is unpickled, and servers listen on this machine alone."""

from __future__ import annotations

import ast
import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from planted import Planted, found_in, watched
from pydantic import BaseModel, ValidationError
from servers import MlflowServer, Postgres, free_port, kill_tree

import softnce_ray
from softnce_ray.config import TrialConfig
from softnce_ray.config.settings import NAME
from softnce_ray.corpus import Corpus, CorpusError
from softnce_ray.encoders import Bag
from softnce_ray.export.formats import FORMATS
from softnce_ray.study.file import parse_study
from softnce_ray.study.problems import StudyError

SOURCES = sorted(Path(softnce_ray.__file__).parent.rglob("*.py"))


def softnce(
    *arguments: object, cwd: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder, without the tracking settings of whoever runs the tests."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "SOFTNCE_"))}
    return subprocess.run(
        [sys.executable, "-m", "softnce_ray", *map(str, arguments)],
        cwd=cwd,
        env=inherited | dict(environment or {}),
        capture_output=True,
        text=True,
        timeout=280,
    )


# --- passwords ---


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Where the Ray of a test keeps its sessions; short, since names of sockets are limited."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def forms(user: str, password: str) -> list[bytes]:
    """What a password looks like in texts, in requests and in a database."""
    token = base64.b64encode(f"{user}:{password}".encode()).rstrip(b"=")
    return [password.encode(), token, password.encode().hex().encode(), base64.b64encode(password.encode())]


def rows_of(uri: str) -> bytes:
    """Every row of every table of a PostgreSQL database, as text."""
    import psycopg

    with psycopg.connect(uri) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        found = [str(connection.execute(f'SELECT * FROM "{name}"'.encode()).fetchall()) for (name,) in tables]
    return "\n".join(found).encode()


def launch(
    study: dict[str, Any],
    folder: Path,
    ray_folder: Path,
    environment: Mapping[str, str],
    secrets: list[bytes],
) -> list[str]:
    """Launch a study and report on it; returns all that was printed. No secret comes up on a command line or in a file
    meanwhile, and Ray leaves no file."""
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    own = {"RAY_TMPDIR": str(ray_folder), **environment}
    with watched(secrets, ray_folder, folder) as watch:
        done = softnce("launch", file, "--store", folder / "store", cwd=folder, environment=own)
        assert "2 trials run" in done.stdout, done.stdout + done.stderr
        report = softnce("report", study["study"], "--store", folder / "store", cwd=folder, environment=own)
        assert report.returncode == 0, report.stderr
    assert watch.found == set()
    assert {"runtime_env_agent.log", "raylet.out"} <= watch.files
    assert any(line.startswith("ray::") for line in watch.processes)
    assert list(ray_folder.iterdir()) == []
    return [done.stdout, done.stderr, report.stdout, report.stderr]


@pytest.fixture
def small_study(tiny_corpus: Path) -> dict[str, Any]:
    """Two trials, trained in a second."""
    return {
        "study": "secretive",
        "corpus": str(tiny_corpus),
        "languages": ["python"],
        "seeds": [1],
        "defaults": {
            "encoder": {"kind": "bag", "width": 8},
            "tokens": {"vocabulary": 400},
            "training": {"epochs": 2, "batch_size": 16},
        },
        "arms": {"infonce": {}, "soft": {"loss": {"name": "soft_infonce"}, "estimator": {"name": "bm25"}}},
    }


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)  # a server, a Ray session and four processes of ours
def test_the_password_of_a_server_appears_nowhere(
    small_study: dict[str, Any], tmp_path: Path, ray_folder: Path
) -> None:
    with MlflowServer(tmp_path / "server", auth=True) as server:
        (tmp_path / "client").mkdir()
        secrets = forms(server.username, server.password)
        environment = {**server.environment, "MLFLOW_TRACKING_URI": server.uri}
        printed = launch(small_study, tmp_path / "client", ray_folder, environment, secrets)
        refused = softnce("report", "secretive", "--tracking-uri", server.uri, cwd=tmp_path)
        wrong = {**server.environment, "MLFLOW_TRACKING_PASSWORD": "not-the-right-one"}
        denied = softnce("report", "secretive", "--tracking-uri", server.uri, cwd=tmp_path, environment=wrong)
    for each in (refused, denied):
        assert each.returncode == 2
        assert "MLFLOW_TRACKING_USERNAME" in each.stderr
    assert "not-the-right-one" not in denied.stdout + denied.stderr
    assert not [text for text in printed if any(secret in text.encode() for secret in secrets)]
    assert found_in(tmp_path, secrets) == []  # the store, the server's database, artifacts and log


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)  # a server, a Ray session and four processes of ours
def test_the_password_of_a_database_appears_nowhere(
    small_study: dict[str, Any], postgres_server: Postgres, tmp_path: Path, ray_folder: Path
) -> None:
    uri = postgres_server.database()
    secrets = forms(postgres_server.user, postgres_server.password)
    printed = launch(small_study, tmp_path, ray_folder, {"MLFLOW_TRACKING_URI": uri}, secrets)
    dump = rows_of(uri)
    assert b"secretive" in dump
    assert not [secret for secret in secrets if secret in dump]
    assert not [text for text in printed if any(secret in text.encode() for secret in secrets)]
    assert found_in(tmp_path, secrets) == []
    nobody = uri.replace(f":{postgres_server.port}/", f":{free_port()}/")
    unreachable = softnce("report", "secretive", "--tracking-uri", nobody, cwd=tmp_path)
    assert unreachable.returncode == 2
    assert not [secret for secret in secrets if secret in (unreachable.stdout + unreachable.stderr).encode()]


@pytest.mark.slow
@pytest.mark.long
def test_planted_secrets_of_every_kind_appear_nowhere(
    small_study: dict[str, Any], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, ray_folder: Path
) -> None:
    planted = Planted(tmp_path_factory.mktemp("keys"))
    printed = launch(small_study, tmp_path, ray_folder, planted.environment, planted.forms)
    assert not [text for text in printed if any(form in text.encode() for form in planted.forms)]
    assert found_in(tmp_path, planted.forms) == []


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:{}@127.0.0.1:{}/mlflow", "postgresql://…@127.0.0.1:{}/mlflow"),
        (
            "postgresql://127.0.0.1:{1}/mlflow?user=me&password={0}",
            "postgresql://127.0.0.1:{}/mlflow?user=me&password=…",
        ),
    ],
)
def test_a_password_that_was_typed_leaves_the_command_line_at_once(address: str, shown: str, tmp_path: Path) -> None:
    """When the command connects to the database that was named."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "softnce_ray", "report", "x", f"--tracking-uri={address.format('hunter2', port)}"],
            cwd=tmp_path,
        )
        server.settimeout(60)
        server.accept()
        words = psutil.Process(process.pid).cmdline()
        process.kill()
        process.wait()
    assert words[-1] == f"--tracking-uri={shown.format(port)}"


# --- servers ---


def listening(process: psutil.Process) -> set[tuple[str, int]]:
    """Addresses and ports that a process and its children listen on."""
    found = set()
    for each in [process, *process.children(recursive=True)]:
        try:
            connections = each.net_connections(kind="inet")
        except psutil.NoSuchProcess:
            continue
        found |= {(entry.laddr.ip, entry.laddr.port) for entry in connections if entry.status == psutil.CONN_LISTEN}
    return found


@pytest.fixture
def ui(tmp_path: Path) -> Iterator[Callable[..., tuple[psutil.Process, Path]]]:
    """A function that starts `softnce-ray ui` on the store of the test; gives its process and what it prints."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*options: object, tracking: str | None = None) -> tuple[psutil.Process, Path]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "SOFTNCE_"))}
        own = {"MLFLOW_TRACKING_URI": tracking} if tracking else {}
        with (tmp_path / "ui.txt").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "softnce_ray", "ui", "--store", "store", *map(str, options)],
                cwd=tmp_path,
                env=inherited | own,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        started.append(process)
        return psutil.Process(process.pid), tmp_path / "ui.txt"

    yield run
    for process in started:
        kill_tree(process.pid)
        process.wait()


def until(happens: Callable[[], Any], process: psutil.Process, printed: Path) -> Any:
    """What a function gives when it first gives something; the process must live until then."""
    limit = time.monotonic() + 240
    while not (found := happens()):
        assert process.is_running() and process.status() != psutil.STATUS_ZOMBIE, printed.read_text()
        assert time.monotonic() < limit, printed.read_text()
        time.sleep(0.1)
    return found


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The folder of a store with an empty database."""
    (tmp_path / "store").mkdir()
    MlflowClient(f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}").search_experiments()
    return tmp_path / "store"


@pytest.mark.slow
@pytest.mark.long
def test_the_ui_listens_on_this_machine_alone_and_shows_no_password(postgres_server: Postgres, ui) -> None:
    """Command lines can be read by all users of a machine."""
    port, tracking = free_port(), postgres_server.database()
    MlflowClient(tracking).search_experiments()  # which makes the tables: a ui does not
    process, printed = ui("--port", port, tracking=tracking)
    assert until(lambda: listening(process), process, printed) == {("127.0.0.1", port)}
    assert postgres_server.password not in printed.read_text()
    assert "can read and change" not in printed.read_text()
    lines = [part for each in (process, *process.children(recursive=True)) for part in each.cmdline()]
    assert "mlflow" in lines
    assert not [line for line in lines if postgres_server.password in line]


@pytest.mark.slow
@pytest.mark.long
def test_a_ui_on_another_address_says_what_is_open(store: Path, ui) -> None:
    """127.0.0.2 is an address like any other, and yet nobody else's."""
    port = free_port()
    process, printed = ui("--host", "127.0.0.2", "--port", port)
    until(lambda: f"http://127.0.0.2:{port}" in printed.read_text(), process, printed)
    assert f"anyone who reaches 127.0.0.2:{port} can read and change the runs" in printed.read_text()


# --- names ---

ESCAPES = [
    "../x",
    "..",
    ".",
    "",
    "/tmp/x",
    "a/b",
    "a\\b",
    "a\0b",
    "~",
    "-x",
    "a" * 64,
    "a" * 5000,
    "a\n",
    "A",
    "a\tb",
    "ü",
    "${HOME}",
    "a'b",
]


@pytest.fixture(scope="module")
def plain(tiny_corpus: Path) -> dict[str, Any]:
    return {
        "study": "names",
        "corpus": str(tiny_corpus),
        "languages": ["python"],
        "seeds": [1],
        "arms": {"infonce": {}},
    }


@pytest.mark.parametrize("name", ESCAPES, ids=lambda name: repr(name)[:12])
def test_names_in_a_study_file_cannot_be_paths(plain: dict[str, Any], name: str) -> None:
    parse_study(yaml.safe_dump(plain))
    changes: dict[str, Any]
    for changes in (
        {"study": name},
        {"arms": {"infonce": {}, name: {}}},
        {"languages": [name]},
        {"languages": [{"name": name, "train": ["python"], "test": ["python"]}]},
        {"languages": [{"name": "fine", "train": [name], "test": ["python"]}]},
        {"languages": [{"name": "fine", "train": ["python"], "test": [name]}]},
    ):
        with pytest.raises(StudyError):
            parse_study(yaml.safe_dump({**plain, **changes}))


@pytest.mark.parametrize("changes", [{"study": "a b"}, {"arms": {"infonce": {}, "a b": {}}}])
def test_names_of_studies_and_arms_have_no_spaces(plain: dict[str, Any], changes: dict[str, Any]) -> None:
    with pytest.raises(StudyError):
        parse_study(yaml.safe_dump({**plain, **changes}))


@given(st.text(max_size=8), st.sampled_from(["/", "\0", "\\", "\n", "~"]), st.text(max_size=8))
def test_no_text_with_a_separator_of_paths_is_a_language(before: str, part: str, after: str) -> None:
    from pydantic import TypeAdapter, ValidationError

    from softnce_ray.config.settings import LanguageName

    with pytest.raises(ValidationError):
        TypeAdapter(LanguageName).validate_python(before + part + after)


@given(st.text(max_size=8), st.sampled_from(["../", "/", "\0", "..", "\\", "~/", "./", "\n"]), st.text(max_size=8))
def test_no_text_with_a_part_of_a_path_is_a_name(before: str, part: str, after: str) -> None:
    from pydantic import TypeAdapter, ValidationError

    from softnce_ray.config.settings import Name

    with pytest.raises(ValidationError):
        TypeAdapter(Name).validate_python(before + part + after)
    assert NAME.endswith("$")


@pytest.mark.parametrize("name", ESCAPES, ids=lambda name: repr(name)[:12])
def test_a_crafted_manifest_leads_out_of_no_corpus(tiny_corpus: Path, tmp_path: Path, name: str) -> None:
    """Where the crafted name leads there are real tables: only the check of names keeps them from being read."""
    folder = tmp_path / "some" / "corpus"
    shutil.copytree(tiny_corpus, folder)
    if name == "../x":
        shutil.copytree(tiny_corpus / "python", tmp_path / "some" / "x")
    written = json.loads((folder / "manifest.json").read_text())
    del written["checksum"]  # who crafts a manifest can leave it out
    (counts,) = written["languages"].values()
    for languages in (
        {**written["languages"], name: counts},
        {"python": {**counts, "pairs": {**counts["pairs"], name: 1}}},
    ):
        (folder / "manifest.json").write_text(json.dumps({**written, "languages": languages}))
        with pytest.raises(CorpusError, match=r"expected a (language|split)'s name") as told:
            Corpus.open(folder)
        assert len(str(told.value)) < 1000


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("command", ["report", "resume", "extend", "sync"])
def test_no_command_follows_a_name_out_of_the_store(store: Path, command: str) -> None:
    before = sorted(store.parent.rglob("*"))
    more = ["--seed", 7] if command == "extend" else []
    for name in ("../../x", str(store.parent / "x"), "a" * 300):
        done = softnce(command, name, *more, "--store", store, cwd=store.parent)
        assert done.returncode == 2
        assert "expected the name of a study" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert sorted(store.parent.rglob("*")) == before


# --- unpickling ---

PICKLING = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "skops", "jsonpickle"}


def runs_code(tree: ast.AST) -> list[str]:
    """What in a module could run code that lies in a file."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{name}" for name in names]
            found += [name for name in names if set(name.split(".")) & PICKLING]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called in ("eval", "exec", "__import__") or called.endswith(
                ("torch.load", "read_pickle", "yaml.load", "unsafe_load", "Tuner.restore", "load_state", "from_pickle")
            ):
                found.append(called)
            found += [
                f"{word}={value}"
                for word, value in words.items()
                if (word, value) in (("allow_pickle", "True"), ("trust_remote_code", "True"), ("weights_only", "False"))
                or (word == "Loader" and value != "yaml.SafeLoader")
            ]
    return found


@pytest.mark.parametrize(
    "text",
    ["import pickle", "from ray import cloudpickle", "from cloudpickle import loads", "torch.load(x)", "eval(x)",
     "np.load(x, allow_pickle=True)", "yaml.load(x)", "yaml.compose(x, Loader=yaml.Loader)", "pd.read_pickle(x)",
     "tune.Tuner.restore(x)", "AutoModel.from_pretrained(x, trust_remote_code=True)"],
)  # fmt: skip
def test_what_could_run_code_is_seen(text: str) -> None:
    assert runs_code(ast.parse(text))


def test_nothing_that_a_store_holds_can_run_code() -> None:
    """An export runs the recipe of its own card, to check it: the next test says what such a recipe may have in it."""
    assert len(SOURCES) > 50
    root = Path(softnce_ray.__file__).parent
    found = {str(path.relative_to(root)): runs_code(ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCES}
    assert {name: each for name, each in found.items() if each} == {"export/reader.py": ["exec"]}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("pooling", [None, "mean", "first", "pooler"])  # None: a bag
def test_the_recipe_that_an_export_runs_has_no_text_of_a_store_in_it(form: str, pooling: str | None) -> None:
    """Of a model there are two numbers in it. All its texts say the same here, wherever they stand."""
    tower = Bag(10, 4) if pooling is None else SimpleNamespace(pooling=pooling)
    model: Any = SimpleNamespace(
        encoder=SimpleNamespace(tower=tower),
        tokenizer=None,
        config=crafted(TrialConfig.model_validate({"language": "python", "seed": 1})),
    )
    assert model.config.similarity == CRAFTED
    recipe = FORMATS[form].recipe(model)
    assert "def encode(" in recipe
    assert CRAFTED not in recipe
    with pytest.raises(ValidationError, match="valid integer"):
        TrialConfig.model_validate({"language": "python", "seed": 1, "tokens": {"query_length": CRAFTED}})


CRAFTED = "__import__('os')"


def crafted(settings: BaseModel) -> BaseModel:
    """A copy whose every text is `CRAFTED`, however deep: none is checked."""
    changed: dict[str, Any] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            changed[name] = crafted(value)
        elif isinstance(value, str):
            changed[name] = CRAFTED
    return settings.model_copy(update=changed)
