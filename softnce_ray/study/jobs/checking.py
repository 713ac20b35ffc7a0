"""What of a study, and of the environment that sends it, a cluster cannot use: found before anything is sent."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from softnce_ray.commands import command
from softnce_ray.corpus.manifest import MANIFEST_NAME
from softnce_ray.corpus.pairs import CorpusError
from softnce_ray.corpus.store import Corpus
from softnce_ray.corpus.verifying import Verify
from softnce_ray.environment import SECRETS
from softnce_ray.storage import Location, StorageError, is_uri
from softnce_ray.study.file import load_study
from softnce_ray.study.problems import Key, Problem, StudyError, lines_of, place
from softnce_ray.yaml_text import compose, text_at, value_of

STORE, TRACKING, STORAGE = "SOFTNCE_STORE", "MLFLOW_TRACKING_URI", "SOFTNCE_STORAGE"
OPTIONS = {"--store": STORE, "--tracking-uri": TRACKING, "--storage": STORAGE}
"""Options of `submit`, and the variables that say the same."""

_SECRETS = (
    "MLFLOW_TRACKING_USERNAME",
    "AWS_ACCESS_KEY_ID",
    "GOOGLE_APPLICATION_CREDENTIALS",
    *(name for name in SECRETS if name != "RAY_AUTH_TOKEN"),  # of which a job has the cluster's own
)
"""Variables that a study may need and that nobody else may read: a job's environment is shown to all who reach the
dashboard."""


@dataclass(frozen=True)
class StudyText:
    """A study file that was checked.

    Attributes:
      raw: what the file says, as YAML has it.
      notes: what only the cluster can check, for people.
    """

    name: str
    text: str
    raw: dict[str, Any]
    notes: tuple[str, ...] = ()


def checked_study(path: Path, *, trust_corpus: bool = False) -> StudyText:
    """Read a study file and check it, and that it names nothing that only this machine has.

    A corpus that this machine cannot see, at an absolute path or in an object store, is left for the job to check, and
    what depends on it: its languages, and whether it is large enough.

    Raises:
      StudyError: all its problems.
    """
    problems: list[Problem] = []
    try:
        load_study(path)
    except StudyError as error:
        problems = error.problems
    try:
        text = text_at(path)
        node = compose(text)
        raw = value_of(node)
    except (OSError, ValueError):
        raw = None
    if not isinstance(raw, dict):
        raise StudyError(str(path), problems)
    lines = lines_of(node)
    notes: list[str] = []
    corpus = raw.get("corpus")
    if isinstance(corpus, str) and corpus:
        away, note = _corpus(corpus)
        away = away or _changed(corpus, trust_corpus=trust_corpus)
        if away:
            problems = [*problems, place(("corpus",), away, lines)]
        elif not _is_here(corpus):
            why = "; ".join(problem.message for problem in problems if problem.key == "corpus")
            problems = [problem for problem in problems if problem.key != "corpus"]
            note = f"corpus {corpus} cannot be read from here, the job will check it" + (f" ({why})" if why else "")
        notes += [note] if note else []
    problems = [*problems, *(place(key, message, lines) for key, message in _models(node))]
    if problems:
        unique = dict.fromkeys(problems)
        raise StudyError(str(path), sorted(unique, key=lambda problem: problem.line or 0))
    return StudyText(str(raw["study"]), text, raw, tuple(notes))


def _corpus(corpus: str) -> tuple[str, str]:
    """Why a cluster cannot use a corpus, or a note on what it must have."""
    try:
        folder = Location.at(corpus).path
    except StorageError as error:
        return str(error), ""
    if folder is None:
        return "", ""
    if not (is_uri(corpus) or Path(corpus).is_absolute()):
        copy = command("softnce-ray", "corpus", "copy", corpus, "s3://BUCKET/FOLDER")
        return (
            f"expected a corpus that all machines of the cluster can read, got {corpus!r}, a path on this machine: "
            f"`{copy}` puts a copy where they can; give that address, or an absolute path on a disk that they share"
        ), ""
    return "", f"corpus {corpus}: all machines of the cluster must see it under this path"


def _changed(corpus: str, *, trust_corpus: bool) -> str:
    """Why the rows of a corpus folder that this machine sees are not its own; those of an object store are the job's
    to read."""
    folder = Location.at(corpus).path
    if folder is None or not (folder / MANIFEST_NAME).exists():
        return ""
    try:
        Corpus.open(folder, verify=Verify.unless(trust_corpus))
    except CorpusError as error:
        return str(error)
    return ""


def _is_here(corpus: str) -> bool:
    """Whether what is wrong with a corpus is wrong for the cluster too: objects that cannot be read may be others'."""
    folder = Location.at(corpus).path
    if folder is not None:
        return folder.exists()
    try:
        Corpus.listed(corpus)
    except CorpusError:
        return False
    return True


def _models(node: yaml.Node | None) -> Iterator[tuple[Key, str]]:
    """Models that are named by a folder of this machine."""
    for key, model in _named(node):
        if Path(model).is_absolute() or is_uri(model):
            continue
        if Path(model).is_dir() or model.startswith((".", "~")) or model.count("/") > 1:
            yield (
                key,
                f"expected a model that all machines of the cluster can read, got {model!r}, a folder on this machine: "
                "put it on a disk that they share and give its absolute path, or give the name of a hub's model",
            )


def _named(node: yaml.Node | None, key: Key = ()) -> Iterator[tuple[Key, str]]:
    """The values of keys `model`, those of searched ones too."""
    if isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _named(value, (*key, number))
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            inner = (*key, name.value)
            if str(name.value).rpartition(".")[2] == "model":
                yield from ((inner, text) for text in _texts(value))
            else:
                yield from _named(value, inner)


def _texts(node: yaml.Node) -> Iterator[str]:
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str" and node.value:
        yield node.value
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _texts(value)
    elif isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.value == "choices":
                yield from _texts(value)


@dataclass
class Environment:
    """What of this environment goes with a job, and what does not.

    Attributes:
      sent: variables of the job, which everyone who reaches the dashboard can read.
      needed: variables that must be set on the cluster, or the job ends at once with the reason.
      problems: what cannot work.
      notes: for people.
    """

    sent: dict[str, str] = field(default_factory=dict)
    needed: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def checked_environment(environment: Mapping[str, str], jobs_address: str) -> Environment:
    """What of an environment the job of a study can have on the cluster at `jobs_address`."""
    found = Environment()
    _store(environment.get(STORE, ""), found)
    _tracking(environment.get(TRACKING, ""), jobs_address, found)
    _storage(environment.get(STORAGE, ""), found)
    kept = [name for name in _SECRETS if environment.get(name)]
    if kept:
        found.notes.append(
            f"not sent, since all who reach the dashboard could read them: {', '.join(kept)}: set on all nodes of the "
            "cluster those that the study needs there"
        )
    if found.sent:
        shown = ", ".join(f"{name}={value}" for name, value in found.sent.items())
        found.notes.append(f"goes with the job: {shown}")
    return found


def _store(store: str, found: Environment) -> None:
    if not store:
        found.needed[STORE] = (
            "expected the folder on the head for runs and searches, which outlives the job: set it on the cluster, or "
            "give submit --store"
        )
        found.notes.append(f"{STORE} is not set here: the cluster must have it, or give --store")
    elif is_uri(store) or not Path(store).is_absolute():
        found.problems.append(
            f"{STORE} (--store): expected an absolute path on the cluster's head, got {store!r}: one from the working "
            "directory would be deleted with the job"
        )
    else:
        found.sent[STORE] = store


def _tracking(uri: str, jobs_address: str, found: Environment) -> None:
    scheme = urlsplit(uri).scheme
    if not uri:
        return
    if scheme in ("", "file") or scheme.startswith("sqlite"):
        found.problems.append(
            f"{TRACKING} (--tracking-uri): expected a server that the cluster reaches, got {uri}, which lies on this "
            f"machine: give http://HOST:5000, or unset it: runs are then kept in {STORE} on the head"
        )
    elif _has_secret(uri):
        _keep(TRACKING, found)
    elif _is_loopback(uri) and not _is_loopback(jobs_address):
        found.problems.append(
            f"{TRACKING} (--tracking-uri): expected a server that the cluster reaches, got {uri}, which means each "
            "machine itself: give the address by which the cluster knows it, or unset it where the cluster has its own"
        )
    else:
        found.sent[TRACKING] = uri


def _storage(storage: str, found: Environment) -> None:
    if not storage:
        return
    if is_uri(storage) and _has_secret(storage):
        _keep(STORAGE, found)
    elif is_uri(storage) or Path(storage).is_absolute():
        found.sent[STORAGE] = storage
    else:
        found.problems.append(
            f"{STORAGE} (--storage): expected s3://BUCKET/FOLDER, or an absolute path on a disk that all nodes share, "
            f"got {storage!r}"
        )


def _keep(name: str, found: Environment) -> None:
    found.needed[name] = "expected on the cluster, since the one of the machine that sent this job has a password"
    found.notes.append(
        f"{name} has a password and is not sent, since all who reach the dashboard could read it: it must be set on "
        "all nodes of the cluster"
    )


def _has_secret(uri: str) -> bool:
    from softnce_ray.tracking.credentials import without_password

    return without_password(uri) != uri


def _is_loopback(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def environment_with(store: str | None, tracking_uri: str | None, storage: str | None) -> dict[str, str]:
    """This process' environment, with what options say instead."""
    given = {STORE: store, TRACKING: tracking_uri, STORAGE: storage}
    return {**os.environ, **{name: value for name, value in given.items() if value is not None}}
