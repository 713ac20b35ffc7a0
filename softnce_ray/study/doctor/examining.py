"""The doctor: everything that could hurt a study, before it starts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import ray

from softnce_ray.config import StudyConfig
from softnce_ray.corpus.store import Corpus
from softnce_ray.corpus.verifying import Verify
from softnce_ray.errors import UserError
from softnce_ray.store import Store
from softnce_ray.study.cluster import LaunchError, connected
from softnce_ray.study.doctor import judging
from softnce_ray.study.doctor.asking import PATIENCE, Node, ask, elsewhere
from softnce_ray.study.doctor.facts import NodeFacts, Questions, facts_here, nearest_folder, probe
from softnce_ray.study.doctor.finding import Finding
from softnce_ray.study.doctor.models import models, named_models
from softnce_ray.study.doctor.needs import folder_of, needs
from softnce_ray.study.doctor.networks import adapters, misfits, precision
from softnce_ray.study.doctor.settling import settled
from softnce_ray.study.doctor.steps import uneven_steps
from softnce_ray.study.doctor.texts import unknown_tokens
from softnce_ray.study.doctor.tracking import tracking
from softnce_ray.study.file import load_study
from softnce_ray.study.problems import StudyError

_OBJECT_STORE = 80_000_000
"""Bytes of the object store of a Ray that is only looked at; the least that Ray takes."""


def examine(
    study: StudyConfig | str | Path | None = None,
    store: Store | str | Path | None = None,
    *,
    patience: float = PATIENCE,
    trust_corpus: bool = False,
    calibrate: bool = False,
) -> list[Finding]:
    """Look at the environment and the store, and at what a study needs of them.

    Ray is the caller's session, the cluster of RAY_ADDRESS, or started for this, as a launch would start it. Nothing is
    made that was not there, and nothing stays behind.

    Args:
      study: a study, or the path of its file; mistakes in it are findings.
      store: where a launch would keep everything; default `Store.at()`.
      patience: seconds that the nodes of a cluster have to answer.
      trust_corpus: do not read the rows of the corpus to compare them with its manifest.
      calibrate: measure the encoders of the study for the estimate of its time, in this process.
    """
    place = Store.at(store)
    found: list[Finding] = []
    corpus = None
    if isinstance(study, str | Path):
        study, found = _read(study)
    if study is not None:
        study, said = settled(study)
        found += [*said, *_of_settings(study, place)]
        try:
            corpus = Corpus.open(study.corpus, verify=Verify.unless(trust_corpus))
            study = study.with_all(corpus.languages)
            found.append(Finding("study", "ok", f"{study.study} can be read"))
            found += unknown_tokens(study, corpus)
        except UserError as error:
            found, study = [*found, _finding("corpus", error)], None
    try:
        with connected(object_store_memory=_OBJECT_STORE):
            found += _of_cluster(study, place, corpus, patience, partial(_cost, calibrate=calibrate))
    except LaunchError as error:
        found.append(_finding("ray", error))
    return [*found, *tracking(place)]


def settle(study: StudyConfig) -> tuple[StudyConfig, list[str]]:
    """The study with what its models' files say and its arms do not, and warnings; see `settled`.

    Raises:
      LaunchError: no encoder here does what a model's files say; a line for each error, with its remedy.
    """
    whole, found = settled(study)
    return whole, _warnings(found)


def check_settings(study: StudyConfig, store: Store) -> list[str]:
    """What of it needs no cluster, before Ray is started: models that the study names, what it says of their networks,
    its resources. Returns warnings.

    Raises:
      LaunchError: the study cannot run; a line for each error, with its remedy.
    """
    return _warnings(_of_settings(study, store))


def check_texts(study: StudyConfig, corpus: Corpus) -> list[str]:
    """What its models cannot read of the corpus' texts, in some of them; a launch sees it when it prepares them all.
    Returns warnings."""
    return _warnings([*unknown_tokens(study.with_all(corpus.languages), corpus)])


def check_before_launch(study: StudyConfig, store: Store, corpus: Corpus, *, patience: float = PATIENCE) -> list[str]:
    """All else for a launch, inside its Ray session; `study` has its languages in the place of `all`. Returns warnings.

    Raises:
      LaunchError: the study would be hurt; a line for each error, with its remedy.
    """
    return _warnings([*_of_cluster(study, store, corpus, patience), *tracking(store)])


def _warnings(found: list[Finding]) -> list[str]:
    """Raise LaunchError where there are errors."""
    if errors := [finding for finding in found if finding.level == "error"]:
        raise LaunchError("\n".join(map(line, errors)))
    return [line(finding) for finding in found if finding.level == "warning"]


def line(finding: Finding) -> str:
    """A finding as a line."""
    return f"{finding.check}: {finding.text}" + (f": {finding.remedy}" if finding.remedy else "")


def _read(path: str | Path) -> tuple[StudyConfig | None, list[Finding]]:
    try:
        return load_study(path), []
    except StudyError as error:
        return None, [Finding("study", "error", text, "correct the file") for text in str(error).splitlines()]


def _finding(check: str, error: UserError) -> Finding:
    """Errors of users say what to do after their last colon."""
    text, _, remedy = " ".join(str(error).split()).rpartition(": ")
    return Finding(check, "error", text or remedy, remedy if text else "")


def _of_settings(study: StudyConfig, store: Store) -> list[Finding]:
    return [
        *models(study, store, elsewhere=elsewhere()),
        *misfits(study, folder_of),
        *judging.reservations(study),
        *uneven_steps(study),
    ]


def _of_cluster(
    study: StudyConfig | None,
    store: Store,
    corpus: Corpus | None,
    patience: float,
    cost: Callable[[StudyConfig, Corpus, Store, list[Node]], list[Finding]] = lambda *asked: [],
) -> list[Finding]:
    questions = _questions(study, store, corpus)
    nodes = ask(questions, patience=patience)
    found = [
        *judging.answers(nodes),
        *judging.versions(_here(nodes, questions), nodes),
        *judging.storage(str(store.shared), store.shared.path is None or store.root.is_dir(), nodes),
        *_own_store(store),
    ]
    if study is None or corpus is None:
        return [*found, *(judging.disk(nodes) if store.storage is None else []), *judging.limits(nodes)]
    return [
        *found,
        *cost(study, corpus, store, nodes),
        *judging.corpora(study.corpus, corpus.fingerprint, nodes),
        *adapters(study, nodes),
        *judging.room(study.resources, nodes, ray.available_resources()),
        *precision(study, nodes),
        *judging.sizes(study, needs(study, corpus.manifest), nodes, on_disk=store.storage is None),
        *judging.limits(nodes),
    ]


def _cost(study: StudyConfig, corpus: Corpus, store: Store, nodes: list[Node], *, calibrate: bool) -> list[Finding]:
    from softnce_ray.study.costs import costs  # which asks MLflow, and imports modules that need this room

    told = costs(study, corpus, store, [node.resources for node in nodes], calibrate=calibrate)
    return [Finding("cost", "ok", text) for text in told]


def _own_store(store: Store) -> list[Finding]:
    """The store folder, where the machines share another storage: only this process writes there."""
    if store.storage is None:
        return []
    folder = nearest_folder(store.root)
    if problem := probe(folder):
        remedy = "choose another folder with --store (or SOFTNCE_STORE), or mend its permissions"
        return [Finding("store", "error", f"{folder} {problem}", remedy)]
    return [Finding("store", "ok", f"{store.root} can be written, read and deleted")]


def _here(nodes: list[Node], questions: Questions) -> NodeFacts:
    """This process' own facts, which are those of a single node that was asked without Ray."""
    if len(nodes) == 1 and nodes[0].facts is not None:
        return nodes[0].facts
    return facts_here(Questions(questions.folder, ""))


def _questions(study: StudyConfig | None, store: Store, corpus: Corpus | None) -> Questions:
    folder = nearest_folder(store.root) if store.storage is None else store.shared
    if study is None or corpus is None:
        return Questions(folder, "")
    return Questions(
        folder,
        "",
        corpus.location,
        _model_folders(study),
        study.resources.gpus > 0,
        corpus.is_trusted,
    )


def _model_folders(study: StudyConfig) -> tuple[str, ...]:
    """Models that the study names by a folder here: workers are other processes, on other machines."""
    named = {each.model for each in named_models(study)}
    return tuple(sorted(str(Path(name).absolute()) for name in named if Path(name).is_dir()))
