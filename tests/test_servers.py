"""The servers that other tests break: that they are real, and that the proxy does what it is told."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from servers import FaultyProxy, MlflowServer, Postgres


@pytest.fixture
def counter() -> Iterator[tuple[str, list[bytes]]]:
    """Address of a server that keeps the bodies of what is posted, and these bodies."""
    taken: list[bytes] = []

    class Counting(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"taken")

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Counting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", taken
        server.shutdown()


def post(uri: str, body: bytes, timeout: float = 10) -> bytes | int:
    """The answer's content, or its status if that is an error."""
    try:
        with urllib.request.urlopen(urllib.request.Request(uri, data=body), timeout=timeout) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_the_proxy_fails_as_it_is_told_and_passes_on_again(counter) -> None:
    target, taken = counter
    with FaultyProxy(target) as proxy:
        assert post(f"{proxy.uri}/a", b"1") == b"taken"
        proxy.fail_with(429)
        assert post(f"{proxy.uri}/b", b"2") == 429
        proxy.fail_after(500)
        assert post(f"{proxy.uri}/c", b"3") == 500
        assert taken == [b"1", b"3"]
        proxy.hang()
        with pytest.raises(TimeoutError):
            post(f"{proxy.uri}/d", b"4", timeout=0.3)
        for _ in range(2):  # twice: also from refused to refused
            proxy.refuse()
            with pytest.raises(urllib.error.URLError, match="refused"):
                post(f"{proxy.uri}/e", b"5")
        proxy.fail_with(503, share=0.5)
        answers = [post(f"{proxy.uri}/f", b"6") for _ in range(40)]
        assert 5 < answers.count(503) < 35
        assert answers.count(b"taken") == 40 - answers.count(503)
        proxy.pass_on()
        assert post(f"{proxy.uri}/g", b"7") == b"taken"
        assert [each for each in proxy.requests if each[1] != "/f"] == [("POST", f"/{path}") for path in "abcdg"]
    with pytest.raises(urllib.error.URLError, match="refused"):
        post(f"{proxy.uri}/h", b"8")


def test_the_proxy_delays_and_ends_while_requests_wait(counter) -> None:
    target, taken = counter
    with FaultyProxy(target, delay=0.2) as proxy:
        started = time.monotonic()
        assert post(proxy.uri, b"1") == b"taken"
        assert time.monotonic() - started >= 0.2
        proxy.delay = 300
        failures: list[OSError] = []

        def wait() -> None:
            try:
                post(proxy.uri, b"2")
            except OSError as error:
                failures.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        while len(proxy.requests) < 2:
            time.sleep(0.01)
    waiting.join(timeout=10)
    assert len(failures) == 1
    assert taken == [b"1"]


def test_a_killed_postgresql_comes_back_with_its_data(postgres_server: Postgres) -> None:
    import psycopg

    uri = postgres_server.database()
    with psycopg.connect(uri) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS seven")
    postgres_server.kill()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(uri)
    postgres_server.start()
    with psycopg.connect(uri) as connection:
        assert connection.execute("SELECT seven FROM kept").fetchone() == (7,)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(uri.replace(postgres_server.password, "another"))


@pytest.mark.slow
@pytest.mark.long
def test_a_killed_mlflow_server_comes_back_with_its_runs(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()  # sent in chunks
    (tmp_path / "word.txt").write_text("word")
    with FaultyProxy(mlflow_server.uri) as proxy:
        client = MlflowClient(proxy.uri)
        run = client.create_run(client.create_experiment(tmp_path.name)).info.run_id
        client.log_artifacts(run, str(tmp_path))
        mlflow_server.kill()
        mlflow_server.start()
        assert client.get_run(run).info.status == "RUNNING"
        assert [file.path for file in client.list_artifacts(run)] == ["empty.txt", "word.txt"]


@pytest.mark.slow
def test_a_server_with_passwords_lets_nobody_in_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with MlflowServer(tmp_path / "server", auth=True) as server:
        with pytest.raises(MlflowException, match=r"401|authenticated"):
            MlflowClient(server.uri).search_experiments()
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        assert [each.name for each in MlflowClient(server.uri).search_experiments()] == ["Default"]
