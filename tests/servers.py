"""Real servers on loopback for tests: PostgreSQL, MLflow, an object store, and a proxy that can be made to fail while
it runs.

Each is a context manager; `postgres_server`, `mlflow_server` and `s3_server` are fixtures that live as long as the test
session.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import psutil
import pytest

_START_SECONDS = 180
"""A server that has not answered by then never will; on a busy machine MLflow takes half a minute."""


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and all that come from it, whatever sessions they are in. None at all is no error."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(tree, timeout=30)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])


# --- PostgreSQL ---


class Postgres:
    """A PostgreSQL cluster of its own, with password authentication; made by `postgres`."""

    user = "softnce"

    def __init__(self, programs: Path, data: Path, log: Path) -> None:
        self._programs, self._data, self.log = programs, data, log
        self._owner = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.password = secrets.token_urlsafe(18)
        if self._owner:
            shutil.chown(data, self._owner)
        words = data / "password"
        words.write_text(self.password, encoding="utf-8")
        if self._owner:
            shutil.chown(words, self._owner)
        made = self._run(
            "initdb", "--auth=scram-sha-256", f"--username={self.user}", f"--pwfile={words}", "--no-sync", "--pgdata"
        )
        if made.wait() != 0:
            raise RuntimeError(f"initdb failed:\n{_tail(log)}")
        words.unlink()

    def _run(self, program: str, *options: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [self._programs / program, *options, self._data / "cluster"],
                cwd=self._data,
                stdout=log,
                stderr=subprocess.STDOUT,
                user=self._owner,
                group=self._owner,
                extra_groups=[] if self._owner else None,
                start_new_session=True,
            )

    def start(self) -> None:
        """Start it, also after `kill`, on the same port with the same data; returns when it takes connections."""
        import psycopg

        self._process = self._run(
            "postgres", "-h", "127.0.0.1", "-p", str(self.port), "-k", "", "-c", "fsync=off", "-D"
        )
        limit = time.monotonic() + _START_SECONDS
        while True:
            try:
                psycopg.connect(self._uri("postgres")).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > limit:
                    self.kill()
                    raise RuntimeError(f"PostgreSQL did not start:\n{_tail(self.log)}") from None
                time.sleep(0.1)

    def database(self) -> str:
        """Make a new, empty database; returns its SQLAlchemy URI, password included."""
        import psycopg

        name = f"test_{secrets.token_hex(6)}"
        with psycopg.connect(self._uri("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self._uri(name)

    def _uri(self, database: str) -> str:
        return f"postgresql://{self.user}:{self.password}@127.0.0.1:{self.port}/{database}"

    def kill(self) -> None:
        """SIGKILL to the server and all its processes."""
        if self._process is not None:
            kill_tree(self._process.pid)
            self._process.wait()

    def stop(self) -> None:
        """Fast shutdown: open connections are cut."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.kill()


def postgres_programs() -> Path | None:
    """Folder of PostgreSQL's programs, the newest that Debian's packages have put there; None without one."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parents[1].name), reverse=True
    )
    return found[0].parent if found else None


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """A running PostgreSQL that writes its log to `folder`; skips the test where it is not installed."""
    pytest.importorskip("psycopg", reason="psycopg, PostgreSQL's driver, is not installed")
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    # Its own folder: the user postgres cannot enter those of another user's tests.
    data = Path(tempfile.mkdtemp(prefix="postgres-"))
    server = None
    try:
        server = Postgres(programs, data, folder / "postgres.log")
        server.start()
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(data, ignore_errors=True)


# --- MLflow ---


class MlflowServer:
    """An `mlflow server` with one worker; `with MlflowServer(folder) as server:` starts and stops it.

    Attributes:
      uri: its address, the same after a restart.
      folder: its database (unless `backend_uri` names another), its `artifacts`, which it hands out itself, and `log`.
      username, password: of its administrator, where it was made with `auth`; clients take them from the environment
        (`environment`).
    """

    username = "admin"

    def __init__(self, folder: Path, backend_uri: str | None = None, auth: bool = False) -> None:
        if auth:
            pytest.importorskip("flask_wtf", reason="Flask-WTF, which MLflow's basic authentication needs, is missing")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.artifacts, self.log = folder, folder / "artifacts", folder / "server.log"
        self.backend_uri = backend_uri or f"sqlite:///{folder / 'mlflow.db'}"
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.password = secrets.token_urlsafe(18)
        self._auth = auth
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a client's environment needs to be let in."""
        if not self._auth:
            return {}
        return {"MLFLOW_TRACKING_USERNAME": self.username, "MLFLOW_TRACKING_PASSWORD": self.password}

    def start(self) -> None:
        """Start it, also after `kill`; returns when it is healthy."""
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        own = {
            "MLFLOW_BACKEND_STORE_URI": self.backend_uri,  # not as an option: command lines are public
            "MLFLOW_ARTIFACTS_DESTINATION": str(self.artifacts),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        if self._auth:
            settings = self.folder / "auth.ini"
            settings.write_text(
                "[mlflow]\ndefault_permission = READ\n"
                f"database_uri = sqlite:///{self.folder / 'auth.db'}\nadmin_username = {self.username}\n"
                "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
                "auth_cache_ttl_seconds = 60\n",
                encoding="utf-8",
            )
            options += ["--app-name", "basic-auth"]
            own |= {
                "MLFLOW_AUTH_CONFIG_PATH": str(settings),
                "MLFLOW_AUTH_ADMIN_PASSWORD": self.password,
                "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(),
            }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *options],
                cwd=self.folder,
                env=inherited | own,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        limit = time.monotonic() + _START_SECONDS
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() > limit:
                self.kill()
                raise RuntimeError(f"MLflow's server did not start:\n{_tail(self.log)}")
            time.sleep(0.2)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError, http.client.HTTPException):
            return False

    def kill(self) -> None:
        """SIGKILL to the server and all its processes."""
        if self._process is not None:
            kill_tree(self._process.pid)
            self._process.wait()

    def stop(self) -> None:
        """End it as a service manager does: SIGTERM, and SIGKILL to what is left after a while."""
        if self._process is None or self._process.poll() is not None:
            return
        tree = psutil.Process(self._process.pid).children(recursive=True)
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=15)
        self.kill()
        for process in tree:
            kill_tree(process.pid)

    def __enter__(self) -> MlflowServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


# --- an S3-compatible object store ---


class S3:
    """A moto server: an object store in its own memory, which takes any credentials; made by `s3`.

    Attributes:
      endpoint: its address.
      environment: what processes need to use it.
    """

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, empty; returns when it answers."""
        command = ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *command], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        limit = time.monotonic() + _START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{self.endpoint}/moto-api/", timeout=5).close()
                return
            except (urllib.error.URLError, OSError, http.client.HTTPException):
                if self._process.poll() is not None or time.monotonic() > limit:
                    self.kill()
                    raise RuntimeError(f"moto's server did not start:\n{_tail(self.log)}") from None
                time.sleep(0.1)

    def bucket(self) -> str:
        """Make a new, empty bucket; returns its name."""
        name = f"test-{secrets.token_hex(6)}"
        request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=30).close()
        return name

    def kill(self) -> None:
        """SIGKILL: all that it held is lost."""
        if self._process is not None:
            kill_tree(self._process.pid)
            self._process.wait()


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[S3]:
    """A running object store that writes its log to `folder`."""
    server = S3(folder / "moto.log")
    try:
        server.start()
        yield server
    finally:
        server.kill()


# --- a proxy with faults ---


@dataclass(frozen=True)
class _Fault:
    kind: Literal["none", "before", "after", "hang"] = "none"
    status: int = 0
    share: float = 1.0


class FaultyProxy:
    """An HTTP proxy in front of a server, whose behaviour is changed while it runs; a context manager.

    Attributes:
      uri: its address, the same all the time.
      delay: seconds that a request waits before it is forwarded; in effect from the next request on.
      requests: method and path of every request that came, in their order, whatever became of it.
    """

    def __init__(self, target_uri: str, *, delay: float = 0.0, seed: int = 0) -> None:
        self.delay = delay
        self.requests: list[tuple[str, str]] = []
        self._target = urlsplit(target_uri)
        self._fault = _Fault()
        self._chance = random.Random(seed)
        self._changed = threading.Event()  # set once what is told from now on differs
        self._connections: set[socket.socket] = set()
        self._server: _Server | None = None
        self._open(0)
        assert self._server is not None
        self._port: int = int(self._server.server_address[1])
        self.uri: str = f"http://127.0.0.1:{self._port}"

    def pass_on(self) -> None:
        """Forward everything, without faults or delay."""
        self.delay = 0.0
        self._become(_Fault())

    def fail_with(self, status: int, share: float = 1.0) -> None:
        """Answer a random share of requests with this status, and forward the rest."""
        self._become(_Fault("before", status, share))

    def fail_after(self, status: int, share: float = 1.0) -> None:
        """Forward all requests, and answer a random share with this status: what they asked for was done."""
        self._become(_Fault("after", status, share))

    def hang(self) -> None:
        """Take connections and requests, and never answer. When the behaviour changes, their connections are cut."""
        self._become(_Fault("hang"))

    def refuse(self) -> None:
        """Listen no more, and cut open connections."""
        self._change()
        self._shut()

    def close(self) -> None:
        self.refuse()

    def __enter__(self) -> FaultyProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _become(self, fault: _Fault) -> None:
        self._fault = fault
        self._change()
        if self._server is None:
            self._open(self._port)

    def _change(self) -> None:
        previous, self._changed = self._changed, threading.Event()
        previous.set()

    def _open(self, port: int) -> None:
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.proxy = self
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="faulty-proxy", daemon=True).start()

    def _shut(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.socket.close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        server.server_close()  # waits for the threads of requests

    def _answer(self, request: _Handler, body: bytes) -> None:
        changed, fault = self._changed, self._fault
        self.requests.append((request.command, request.path))
        if fault.kind == "hang":
            changed.wait()
            request.close_connection = True
            return
        if self.delay and changed.wait(self.delay) and self._server is None:
            request.close_connection = True
            return
        hit = fault.kind in ("before", "after") and self._chance.random() < fault.share
        if hit and fault.kind == "before":
            request.reply(fault.status, [], b"a fault that the test asked for")
            return
        upstream = http.client.HTTPConnection(self._target.hostname or "", self._target.port, timeout=60)
        try:
            upstream.request(request.command, request.path, body or None, _kept(request.headers.items(), "host"))
            answer = upstream.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            request.reply(502, [], f"{self._target.geturl()}: {error}".encode())
            return
        finally:
            upstream.close()
        if hit:
            request.reply(fault.status, [], b"a fault that the test asked for, after the deed")
        else:
            request.reply(answer.status, list(_kept(answer.getheaders()).items()), content)


class Wire:
    """Connections to a server on loopback, byte by byte, which can be cut; a context manager. For clients whose
    requests a proxy of HTTP would change, such as those of object stores.

    Attributes:
      uri: its address, the same all the time.
    """

    def __init__(self, target_uri: str) -> None:
        self._target = urlsplit(target_uri).port
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._port = free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self.mend()

    def cut(self) -> None:
        """Cut all connections, and refuse new ones."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # or the thread that accepts would take one more
            listener.close()
        self._end()

    def mend(self) -> None:
        """Take connections again."""
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self._port), backlog=64)
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def _end(self) -> None:
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._open += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(source, target), daemon=True).start()
                if self._listener is not listener:
                    self._end()

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class _Server(ThreadingHTTPServer):
    proxy: FaultyProxy
    daemon_threads = False  # so that closing waits for them
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept, as clients expect
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.proxy._connections.add(self.connection)

    def finish(self) -> None:
        self.server.proxy._connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def _any(self) -> None:
        self.server.proxy._answer(self, self._body())

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = _any

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def reply(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


_OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length"}


def _kept(headers: Iterable[tuple[str, str]], *without: str) -> dict[str, str]:
    """Headers that a proxy hands on."""
    return {name: value for name, value in headers if name.lower() not in {*_OF_ONE_CONNECTION, *without}}


# --- fixtures ---


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """One PostgreSQL for all tests; take a new database for each with `.database()`."""
    with postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One MLflow server for all tests, started by the first that asks; whoever kills it starts it again."""
    with MlflowServer(tmp_path_factory.mktemp("mlflow_server")) as server:
        yield server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """One object store for all tests of a run."""
    with s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(s3_server: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of an empty bucket, which this process can use; what it reads there it keeps for this test only."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SOFTNCE_CACHE", str(tmp_path / "cache"))
    return f"s3://{s3_server.bucket()}"
