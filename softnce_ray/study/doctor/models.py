"""Models that a study names: whether they can be found, before any of them is loaded."""

from __future__ import annotations

import contextlib
import difflib
import os
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from softnce_ray import storage
from softnce_ray.config import (
    ArmConfig,
    BagEncoder,
    Choices,
    MiniLMEncoder,
    SimCSEEstimator,
    StudyConfig,
    TrainedEstimator,
    how_to_get,
)
from softnce_ray.errors import UserError
from softnce_ray.exported import changed_export
from softnce_ray.named import located, sentence_model_problem
from softnce_ray.store import Store
from softnce_ray.study.doctor.finding import Finding, Level, of_arms

_SECONDS = 4.0
"""That the hub has to answer."""

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class Named:
    """A model that a study names.

    Attributes:
      key: of the setting, from the arm.
      model: the name.
      estimator: name of the estimator whose model it is; "": the encoder's.
    """

    key: str
    model: str
    estimator: str = ""


@dataclass(frozen=True)
class _Search:
    """What came of looking for a model.

    Attributes:
      where: it is; "": nowhere.
      problem, remedy: what is wrong, where it is not to be used.
      certain: other machines would find the same.
      silent: the hub could not be asked.
    """

    where: str = ""
    problem: str = ""
    remedy: str = ""
    certain: bool = False
    silent: bool = False


def models(study: StudyConfig, store: Store, *, elsewhere: bool) -> list[Finding]:
    """Whether the models that a study names can be found: as a folder, in an installed package, in the cache of
    Hugging Face, on the hub. The hub is only asked for what is nowhere else, and for seconds.

    Args:
      store: where estimators may lie that were prepared before, and need their models no more.
      elsewhere: trials run on other machines, which may have what this one has not: that is then a warning.
    """
    found: list[Finding] = []
    there, hub = [], _Hub()
    for named, arms in named_models(study).items():
        seen = _look(named, hub)
        if not seen.problem:
            there.append(f"{named.model} ({seen.where})")
            continue
        level: Level = "error"
        text = f"{of_arms(arms)}: {named.key}: {seen.problem}"
        if elsewhere and not seen.certain:
            level, text = "warning", f"{text}; the machines that run trials may have it"
        elif seen.silent and named.estimator in _prepared(store):
            level, text = "warning", f"{text}; needed unless this store has its vectors already"
        found.append(Finding("models", level, text, seen.remedy))
    if there and not found:
        found.append(Finding("models", "ok", ", ".join(dict.fromkeys(there))))
    return found


def named_models(study: StudyConfig) -> dict[Named, list[str]]:
    """The models that a study names, those that it searches among them, and the arms that do."""
    found: dict[Named, list[str]] = {}
    for name, arm in study.arms.items():
        space = {path: each for path, each in study.space(name).items() if path.rpartition(".")[2] == "model"}
        fixed = [named for named in models_of_arm(arm) if named.key not in space or space[named.key].when]
        searched = [
            Named(path, value, _estimator_at(arm, path))
            for path, each in space.items()
            if isinstance(each, Choices)
            for value in each.choices
            if isinstance(value, str)
        ]
        for named in dict.fromkeys([*fixed, *searched]):
            found.setdefault(named, []).append(name)
    return found


def models_of_arm(arm: ArmConfig) -> Iterator[Named]:
    """Yield the models that an arm names, without those that it searches."""
    if isinstance(arm.encoder, MiniLMEncoder):
        yield Named("encoder.kind", arm.encoder.model)
    elif not isinstance(arm.encoder, BagEncoder) and arm.encoder.model is not None:
        yield Named("encoder.model", arm.encoder.model)
    for key, part in arm.all_estimators.items():
        if isinstance(part, SimCSEEstimator | TrainedEstimator) and part.model is not None:
            yield Named(f"{key}.model", part.model, part.name)


def _estimator_at(arm: ArmConfig, path: str) -> str:
    """The estimator whose model is searched at a path; "" for the encoder's."""
    if path.startswith("encoder."):
        return ""
    if path.startswith("hard_negatives."):
        return "trained"
    *_, part, _ = path.split(".")
    return part if part != "estimator" else getattr(arm.estimator, "name", "")


def _look(named: Named, hub: _Hub) -> _Search:
    model, path = named.model, Path(named.model)
    try:
        place = located(model)
    except UserError as error:
        text, _, remedy = str(error).rpartition(": ")
        return _Search(problem=text, remedy=remedy)
    if place != model:
        return _Search("an installed package")
    if path.is_dir():
        problem = sentence_model_problem(model) if named.estimator else _network_problem(path)
        text, _, remedy = (problem or "").partition("; ")
        return _Search("a folder", text, remedy, certain=True)
    expected = f"expected a model, got {model!r}"
    if path.exists() or model.startswith((".", "/", "~")) or model.count("/") > 1:
        got = "a file" if path.exists() else "and there is no such folder"
        return _Search(problem=f"{expected}, {got}", remedy=f"{_meant(named)}{how_to_get('.')}")
    cache = _cache(named)
    if any(_is_cached(name, cache, weights=not named.estimator) for name in _names(named)):
        return _Search("the cache of Hugging Face")
    lacks = ""
    for name in _names(named):
        answer = hub.lacks(name)
        if answer is None:
            return _Search("the hub, to be downloaded")
        lacks = answer
    text = (
        f"{expected}, which is no folder here, in no installed package and not in the cache of Hugging Face ({cache}); "
        f"{lacks}"
    )
    if hub.silent:
        return _Search(problem=text, remedy=f"{_meant(named)}{how_to_get(model, named.key)}", silent=True)
    return _Search(
        problem=text,
        remedy=f"{_meant(named)}correct the name, or give the path of a folder; for a private model: hf auth login",
    )


def _names(named: Named) -> list[str]:
    """What the hub may call a model: of a name without owner, sentence-transformers looks among its own."""
    bare = named.estimator and "/" not in named.model
    return [f"sentence-transformers/{named.model}", named.model] if bare else [named.model]


def _meant(named: Named) -> str:
    """A name that can be had here and is written nearly alike, as the beginning of a remedy."""
    path, beside = Path(named.model), []
    lead = named.model.removesuffix(path.name)
    with contextlib.suppress(OSError):
        beside = [lead + each.name for each in path.parent.iterdir() if each.is_dir()]
    close = difflib.get_close_matches(named.model, [MiniLMEncoder.model, *beside], n=1, cutoff=0.75)
    return f"did you mean {close[0]!r}? else " if close else ""


def _network_problem(folder: Path) -> str | None:
    """Why a folder is no model of transformers, or an export that has changed, as far as the disk tells, or None."""
    if not (folder / "config.json").is_file():
        return f"expected a model, got {str(folder)!r}, a folder that has no config.json; {how_to_get('.')}"
    if not _has_weights(folder):
        return f"expected a model, got {str(folder)!r}, a folder that has no weights; {how_to_get('.')}"
    return changed_export(folder)


def _has_weights(folder: Path) -> bool:
    return any(next(folder.glob(pattern), None) for pattern in _WEIGHTS)


def _cache(named: Named) -> str:
    from huggingface_hub import constants

    own = os.environ.get("SENTENCE_TRANSFORMERS_HOME") if named.estimator else None
    return own or constants.HF_HUB_CACHE


def _is_cached(name: str, cache: str, *, weights: bool) -> bool:
    from huggingface_hub import try_to_load_from_cache

    for file in ("config.json", "modules.json"):
        try:
            found = try_to_load_from_cache(name, file, cache_dir=cache)
        except ValueError:  # not a name that the hub could have
            return False
        if isinstance(found, str) and (not weights or _has_weights(Path(found).parent)):
            return True
    return False


class _Hub:
    """The hub, which is not asked again once it was silent. `silent`: why; "": it was not."""

    def __init__(self) -> None:
        self.silent = ""
        self._lacks: dict[str, str | None] = {}

    def lacks(self, name: str) -> str | None:
        """That the hub has not a model, or cannot be asked, as a part of a sentence; None: it has it."""
        if name not in self._lacks and not self.silent:
            self.silent, self._lacks[name] = self._ask(name)
        return self.silent or self._lacks[name]

    def _ask(self, name: str) -> tuple[str, str | None]:
        """(why it is silent, what it lacks). In a thread, since looking up an address has no time limit of its own."""
        from huggingface_hub import HfApi, constants
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

        if constants.is_offline_mode():
            return "the hub is not to be asked (HF_HUB_OFFLINE)", None
        api = HfApi()
        answer: queue.SimpleQueue[tuple[str, str | None]] = queue.SimpleQueue()

        def ask() -> None:
            try:
                files = {each.rfilename for each in api.model_info(name, timeout=_SECONDS).siblings or ()}
                lacks = (
                    None if not files or files & {"config.json", "modules.json"} else "on the hub it has no config.json"
                )
                answer.put(("", lacks))
            except GatedRepoError:
                answer.put(("", "the hub gives it only to those whom its owners let"))
            except (RepositoryNotFoundError, HFValidationError):
                answer.put(("", f"the hub ({api.endpoint}) has none of this name, or a private one"))
            except HfHubHTTPError as error:
                status = getattr(error.response, "status_code", "an error")
                answer.put((f"the hub ({api.endpoint}) answers with {status}", None))
            except Exception as error:  # of the library's, of its client's and of the system's own kinds
                answer.put((f"the hub ({api.endpoint}) cannot be reached ({type(error).__name__})", None))

        threading.Thread(target=ask, daemon=True).start()
        try:
            return answer.get(timeout=_SECONDS + 1)
        except queue.Empty:
            return f"the hub ({api.endpoint}) does not answer", None


def _prepared(store: Store) -> set[str]:
    """Names of the estimators of which a store has any."""
    with contextlib.suppress(OSError):
        return {name.partition("-")[0] for name in storage.names(store.prepared / "estimators")}
    return set()
