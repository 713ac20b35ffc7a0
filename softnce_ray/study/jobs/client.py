"""The Jobs server of a Ray cluster: every question is answered within seconds, or it is said why not."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import re
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

from softnce_ray.commands import command
from softnce_ray.environment import variables
from softnce_ray.errors import UserError
from softnce_ray.study import tokens

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_ADDRESS = "RAY_API_SERVER_ADDRESS"
_OLDEST = (2, 60)
"""Of Ray, on the cluster: what this package is written for."""
_REACHING = 5.0
"""Seconds that a Jobs server has to take a connection."""
_ANSWERING = 30.0
"""Seconds that it has to answer."""
_SENDING = 120.0
"""Seconds that it has to take a job with its files, and to find the agent that starts it."""

_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers that tell of each file that goes to the server."""

OURS = "softnce_ray"
"""Stands in the metadata of jobs that are studies, with the version of the package that sent them."""

Answer = TypeVar("Answer")


class JobError(UserError, RuntimeError):
    """A Jobs server that cannot be used, or a job that is not there."""


class Unreachable(JobError):
    """The server gives no answer now; it may later."""


@dataclass(frozen=True)
class Job:
    """A study as a job.

    Attributes:
      state: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
      started, ended: seconds since 1970.
      exit_code: of the driver; None while it runs, and where it was stopped or never started.
      message: what Ray says of the state.
    """

    id: str
    study: str
    state: str
    started: float | None
    ended: float | None
    exit_code: int | None
    message: str
    metadata: Mapping[str, str]

    @property
    def active(self) -> bool:
        return self.state in ("PENDING", "RUNNING")

    @property
    def status(self) -> int:
        """The exit status of a command that waited for it."""
        if self.state == "SUCCEEDED":
            return 0
        if self.state == "STOPPED":
            return 130
        code = self.exit_code or 1
        return code if code > 0 else 128 - code


def of_interest(jobs: Sequence[Job]) -> set[str]:
    """The ids of jobs of which more is told than how they ended: logs of old ones are long. Of a study they are those
    that run, its latest, and those that ran at the same time as another: one of them was refused."""
    latest = {job.study: job.id for job in jobs}
    at_once = {
        each.id
        for job in jobs
        for other in jobs
        if job.id != other.id and job.study == other.study and _meet(job, other)
        for each in (job, other)
    }
    return {job.id for job in jobs if job.active} | set(latest.values()) | at_once


def _meet(first: Job, second: Job) -> bool:
    """Whether a job was started while another ran."""
    begun, ended = first.started or 0, math.inf if first.ended is None else first.ended
    return begun <= (second.started or 0) < ended


class Jobs:
    """The Jobs server at an address, which has answered.

    Args:
      address: `http://HEAD:8265`; default `address_of(None)`.

    Attributes:
      shown: the address without credentials.
      notes: for people.

    Raises:
      JobError: nobody answers there, or something else does; the token is refused; the cluster's Ray is too old; or
        this Python has not what it takes to ask.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = address_of(address)
        self.shown = shown(self.address)
        self._option = [] if address is None or self.shown != self.address else ["--address", self.address]
        self.notes = self._compared(self._version())
        self._client = self._connect()

    def command(self, verb: str, *words: object) -> str:
        """Return a command that asks this server; an address with a password is not shown."""
        return command("softnce-ray", verb, *words, *self._option)

    def all(self) -> list[Job]:
        """The studies that were sent as jobs, the latest last."""
        found = [_job(each) for each in self._ask("list its jobs", lambda: self._client.list_jobs()) if _is_ours(each)]
        return sorted(found, key=lambda job: (job.started or 0, job.id))

    def job(self, name: str) -> Job:
        """A job by its id, or by a study's name the one that runs, or else its latest.

        Raises:
          JobError: there is none.
        """
        jobs = self.all()
        of_study = [job for job in jobs if job.study == name]
        running = [job for job in of_study if job.active]  # one that was sent later may have been refused
        found = [job for job in jobs if job.id == name] or running or of_study
        if not found:
            known = ", ".join(dict.fromkeys(job.study for job in reversed(jobs))) or "none yet"
            raise JobError(
                f"expected a job or a study that was submitted to {self.shown}, got {name!r}; studies there: {known}"
            )
        return found[-1]

    def send(self, job: str, entrypoint: str, runtime_env: dict[str, Any], metadata: dict[str, str]) -> bool:
        """Start a job; False where its id is taken."""
        try:
            self._ask(
                "take the job",
                lambda: self._client.submit_job(
                    submission_id=job, entrypoint=entrypoint, runtime_env=runtime_env, metadata=metadata
                ),
                _SENDING,
            )
        except JobError as error:
            if "already exists" in str(error):
                return False
            raise
        return True

    def stop(self, job: str) -> bool:
        """Have a job stopped, which takes time; False where it had ended."""
        return self._ask("stop the job", lambda: self._client.stop_job(job))

    def log(self, job: str) -> str:
        """All that a job has said."""
        return self._ask("give the log", lambda: self._client.get_job_logs(job))

    def tail(self, job: str) -> AsyncGenerator[str]:
        """Text of a job's log from its beginning, as it comes; ends when the job has ended, or fails in many ways."""
        return cast("AsyncGenerator[str]", self._client.tail_job_logs(job))

    def _version(self) -> str:
        """Ray's version there; without Ray's client, which waits for minutes where nobody answers."""
        with _extra():
            import requests
        try:
            answer = requests.get(f"{self.address}/api/version", timeout=(_REACHING, _ANSWERING), headers=self._token())
        except requests.exceptions.SSLError as error:
            raise JobError(
                f"{self.shown}: its certificate is refused ({_reason(error)}): give http:// or mend it"
            ) from error
        except requests.exceptions.ConnectTimeout as error:
            raise Unreachable(f"nobody answers at {self.shown} within {_REACHING:.0f} seconds: {_WHERE}") from error
        except (requests.exceptions.RequestException, ValueError) as error:
            raise Unreachable(f"nobody answers at {self.shown} ({_reason(error)}): {_WHERE}") from error
        if answer.status_code in (401, 403):
            raise JobError(self._refused(answer.text))
        try:
            version = str(answer.json()["ray_version"])
        except (ValueError, KeyError, TypeError):
            raise JobError(
                f"expected a Ray Jobs server at {self.shown}, got an answer {answer.status_code} of something else: "
                f"{_WHERE}"
            ) from None
        numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
        if numbers < _OLDEST:
            raise JobError(
                f"expected Ray {'.'.join(map(str, _OLDEST))} or later at {self.shown}, got {version}: update the "
                "cluster's image; studies are run by the Ray that is there"
            )
        return version

    def _compared(self, version: str) -> list[str]:
        """What is said of another version of Ray there."""
        with _extra():
            import ray
        if version == ray.__version__:
            return []
        return [f"Ray {version} runs at {self.shown}, {ray.__version__} is here: studies are run by the one there"]

    def _token(self) -> dict[str, str]:
        """Ray's token, as its client would send it."""
        if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
            return {}
        with _extra():
            from ray.dashboard.modules.dashboard_sdk import get_auth_headers_if_auth_enabled
        try:
            return dict(get_auth_headers_if_auth_enabled({}))
        except Exception as error:  # Ray's own, of no common kind
            raise JobError(tokens.NONE_HERE) from error

    def _connect(self) -> JobSubmissionClient:
        with _extra():
            import aiohttp  # noqa: F401  # Ray imports it where it is there, and needs it
            from ray.job_submission import JobSubmissionClient
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.ERROR)
        with variables({_ADDRESS: self.address}):  # Ray's client goes to that address, whatever it is given
            return self._ask("say its version", lambda: JobSubmissionClient(self.address))

    def _ask(self, what: str, call: Callable[[], Answer], seconds: float = _ANSWERING) -> Answer:
        """What a call of Ray's client returns: it would wait for ever where a connection hangs.

        Raises:
          JobError: of any kind of failure.
        """
        import requests
        from ray.exceptions import AuthenticationError

        try:
            return _within(seconds, call)
        except AuthenticationError as error:
            raise JobError(self._refused(str(error))) from error
        except TimeoutError as error:
            raise Unreachable(f"{self.shown} did not {what} within {seconds:.0f} seconds: try again") from error
        except (requests.exceptions.RequestException, ConnectionError) as error:
            raise Unreachable(f"{self.shown} cannot be reached any more ({_reason(error)}): try again") from error
        except (RuntimeError, ValueError, TypeError) as error:
            raise JobError(f"{self.shown} did not {what}: {_reason(error)}") from error

    def _refused(self, text: str) -> str:
        return tokens.refusal(self.shown, none="Missing" in text or "required" in text)


_WHERE = (
    "give --address http://HEAD:8265, the address of the head's dashboard; a cluster has one where `ray[default]` (or "
    "softnce-ray[cluster]) is installed on its head"
)


def address_of(given: str | None) -> str:
    """The address of a Jobs server: what is given, or that of the environment that Ray's own commands use.

    Raises:
      JobError: there is none, or it is another kind of address.
    """
    cluster = os.environ.get("RAY_ADDRESS") or ""
    address = given or os.environ.get(_ADDRESS) or (cluster if cluster.startswith("http") else "")
    if not address:
        got = f"; RAY_ADDRESS is {cluster!r}, which takes no jobs" if cluster else ""
        raise JobError(f"expected the address of a cluster: give --address http://HEAD:8265, or set {_ADDRESS}{got}")
    parts = urlsplit(address)
    try:
        port = parts.port
    except ValueError:
        port = None
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise JobError(
            f"expected http://HEAD:8265, the address of the head's dashboard, got {shown(address)!r}: Ray's other "
            "addresses (ray://HEAD:10001, HEAD:6379) take no jobs"
        )
    return address.rstrip("/") if port or parts.path.strip("/") else f"{address.rstrip('/')}:8265"


def shown(address: str) -> str:
    """An address without user and password."""
    head, at, tail = address.rpartition("@")
    return f"{head.partition('://')[0]}://…@{tail}" if at else address


@contextlib.contextmanager
def _extra() -> Iterator[None]:
    """What `ray[default]` brings may be missing on the machine that sends."""
    try:
        yield
    except ImportError as error:
        raise JobError(
            f"jobs need more than Ray's core ({_reason(error)}): `{command('pip', 'install', 'softnce-ray[cluster]')}`"
        ) from error


def _is_ours(details: Any) -> bool:
    return OURS in (details.metadata or {}) and details.submission_id is not None


def _job(details: Any) -> Job:
    metadata = dict(details.metadata or {})
    return Job(
        id=details.submission_id,
        study=metadata.get("study", ""),
        state=str(getattr(details.status, "value", details.status)),
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
        exit_code=details.driver_exit_code,
        message=details.message or "",
        metadata=metadata,
    )


def _within(seconds: float, call: Callable[[], Answer]) -> Answer:
    """What a call returns or raises; TimeoutError when it takes longer, and it is left to itself."""
    answers: queue.Queue[tuple[Answer | None, BaseException | None]] = queue.Queue(1)

    def run() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        answer, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return answer  # type: ignore[return-value]


def _reason(error: BaseException) -> str:
    """The core of an error: what libraries wrap around it, and the tracebacks of Ray's server, are left out."""
    text = str(error)
    if cause := re.search(r"\[Errno -?\d+\] ([^'\")]+)|\[SSL: ([A-Z_]+)\]", text):
        return cause[1] or cause[2].replace("_", " ").lower()
    if "BadStatusLine" in text:
        return "what it says is no HTTP"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300].rstrip(".")
