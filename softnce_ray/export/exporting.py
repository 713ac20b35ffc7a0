"""The export itself: which model, from where, in which formats."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from softnce_ray.corpus.trained_on import TrainedOn
from softnce_ray.export import cards
from softnce_ray.export.checking import Checked, expect
from softnce_ray.export.choosing import Chosen, Rule, is_run, trial_of_run, trial_of_study
from softnce_ray.export.evaluated import find_corpus, stored_ranks
from softnce_ray.export.formats import DEFAULT, FORMATS
from softnce_ray.export.fresh import in_this_process
from softnce_ray.export.record import INT8, check_replaceable
from softnce_ray.export.writing import places, possible, write_formats
from softnce_ray.folders import recover
from softnce_ray.model import ExportError, Model, load_kept_model
from softnce_ray.plain_names import plain
from softnce_ray.results import StudyResults, TrialResult
from softnce_ray.storage import local
from softnce_ray.store import Store
from softnce_ray.temporary import temporary_folder


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
      folder: the folder that was made.
      trial: whose model it is.
      how: why this trial, in one line, with how to get another.
      formats: where each format lies: the folder itself for one, folders in it for several.
      checked: what the check of each format found; `onnx (int8)` beside `onnx` where it was asked for.
      sizes: bytes of each format's folder, of `onnx (int8)` those of its graph.
      registered: name, version and earlier champion of the registered model, or None.
    """

    folder: Path
    trial: TrialResult
    how: str
    formats: Mapping[str, Path]
    checked: Mapping[str, Checked]
    sizes: Mapping[str, int]
    registered: tuple[str, str, str | None] | None

    @property
    def largest_difference(self) -> float:
        """Of a vector from the trained one, as a share of its length, among the formats that must be equal."""
        return max(each.difference for name, each in self.checked.items() if name != INT8)


def export(
    study: str,
    to: str | Path,
    *,
    store: Store | str | Path | None = None,
    arm: str | None = None,
    language: str | None = None,
    rule: Rule | None = None,
    formats: Sequence[str] = DEFAULT,
    int8: bool = False,
    register: str | None = None,
    corpus: str | Path | None = None,
    ranks: bool = True,
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
) -> Exported:
    """Write a study's best model, or that of a run, in one or several formats, each read again by a fresh process.

    Of a study it is the model that `best` has recorded, as long as that was chosen of the trials that there are now;
    else that of the best seed of the arm with the best mean validation MRR. `say` is told which.

    Args:
      study: its name in the store, or the id of a trial's run (32 hex digits).
      to: the folder to make, on this machine; of several formats each has a folder in it.
      store: default `Store.at()`.
      arm: only among trials of this arm.
      language: only among trials of this language; needed when the study has several.
      rule: `recorded`: what `best` has recorded, or nothing; `best`: the best mean, whatever is recorded.
      formats: names of `FORMATS`.
      int8: an int8 graph beside the ONNX one, its loss measured.
      register: name of the registered model that an `mlflow` export becomes the champion of; default the study's, with
        the language behind a dot where the study has several.
      corpus: the study's corpus, a folder or URI, whose stored ranks every format must give; default where the study's
        file says.
      ranks: False leaves these out, and only vectors are compared.
      overwrite: replace `to` if it is an earlier export and nothing else.
      say: told a line about the choice and about each step.

    Raises:
      ExportError: unknown formats, `to` is taken, nothing to export, or a written format gives other vectors or ranks.
      SelectionError: unknown arm or language, or no arm all of whose seeds have finished.
      TrackingError: no such study or run, its model is gone, or the registry refuses.
      CorpusError: `corpus` is no corpus.
      StorageError: `to` is a URI or lies below a file.
    """
    from softnce_ray.tracking import download_model, load_results
    from softnce_ray.tracking.models import corpus_of_study, study_of_run

    target, place = local(to, "--to", "make the export in a folder, and copy that"), Store.at(store)
    tell = say or (lambda line: None)
    if recover(target):
        tell(f"{target}: a killed export had taken the earlier one away; it is back")
    names = _formats(formats, int8=int8, ranks=ranks, register=register)
    _free(target, overwrite)
    if "mlflow" in names and unquote(path := str(target.absolute())) != path:
        raise ExportError(
            f"--to: expected a path without %XX for mlflow, got {path}: MLflow would read a model from "
            f"{unquote(path)}; give another --to, and copy the folder"
        )
    run_id = study if is_run(study) else None
    if run_id is not None:
        if arm or language or rule:
            raise ExportError(f"run {run_id} is one trial: give no --arm, no --language and no --rule with it")
        study = study_of_run(place, run_id)
    results = load_results(place, study)
    if run_id is not None:
        chosen = _of_run(results, run_id)
    else:
        chosen = trial_of_study(place, results, arm=arm, language=language, rule=rule)
    trial = chosen.trial
    tell(chosen.how)
    name = _registered_name(place, results, trial, register) if "mlflow" in names else None
    known = (
        find_corpus(corpus, corpus_of_study(place, study), place.root, results.corpus_fingerprint) if ranks else None
    )
    with temporary_folder() as work:
        model = load_kept_model(download_model(place, trial.run_id, work), trial.run_id)
    possible(names, model)
    origin = cards.Origin(results, trial, known, _table(results), chosen.why)
    expected = expect(model, stored_ranks(known, results, trial) if known else ())
    registered: list[tuple[str, str, str | None]] = []

    def finish(folder: Path) -> None:
        if name is not None:
            registered.append(_register(place, folder, name, trial))

    checked, sizes = write_formats(
        model,
        target,
        names,
        expected,
        lambda *args: cards.card(origin, model, *args),
        int8=int8,
        replace=overwrite,
        finish=finish,
        say=tell,
        trained_on=_trained_on(origin),
    )
    return Exported(
        folder=target,
        trial=trial,
        how=chosen.how,
        formats=places(target, names),
        checked=checked,
        sizes=sizes,
        registered=registered[0] if registered else None,
    )


def _trained_on(origin: cards.Origin) -> TrainedOn:
    corpus = origin.corpus
    if corpus is None:
        return TrainedOn(origin.results.corpus_fingerprint, None)
    languages = origin.results.training_set(origin.trial.language).train
    of_language = {name: corpus.manifest.languages[name].packages.get("train", {}) for name in languages}
    return TrainedOn(corpus.fingerprint, {name: sorted(packages) for name, packages in of_language.items()})


def write_export(model: Model, target: Path, card: str, *, replace: bool = False) -> float:
    """Write a model for sentence-transformers with a given card, and check it in this process; the folder appears when
    the check has passed. Returns the largest difference, as a share of a vector's length.

    Raises:
      ExportError: see `export`.
    """
    possible(DEFAULT, model)
    checked, _ = write_formats(
        model, target, DEFAULT, expect(model), lambda *args: card, replace=replace, read=in_this_process
    )
    return max(each.difference for each in checked.values())


def _formats(names: Sequence[str], *, int8: bool, ranks: bool, register: str | None) -> tuple[str, ...]:
    """The formats asked for, each once."""
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        got = ", ".join(map(repr, unknown)) or "none"
        raise ExportError(f"--formats: expected names of formats, got {got}; possible: {', '.join(FORMATS)}")
    if int8 and "onnx" not in names:
        raise ExportError(
            f"--int8 is a graph beside the ONNX one: expected onnx among --formats, got {', '.join(names)}"
        )
    if int8 and not ranks:
        raise ExportError("--int8 is given with its loss in MRR: it needs the corpus, so leave out --no-ranks")
    if register is not None and "mlflow" not in names:
        raise ExportError(f"--register names an MLflow model: expected mlflow among --formats, got {', '.join(names)}")
    return tuple(dict.fromkeys(names))


def _free(target: Path, overwrite: bool) -> None:
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise ExportError(
            f"expected to make {target}, got something already there: give another --to, or --overwrite to replace an "
            "earlier export"
        )
    check_replaceable(target)


def _table(results: StudyResults) -> str:
    """The study's comparison as Markdown, or why there is none."""
    from softnce_ray.report import ReportError, build_report, to_markdown

    try:
        heading, _, rest = to_markdown(build_report(results)).strip().partition("\n")
        return rest.strip() if heading.startswith("#") else f"{heading}\n{rest}"
    except ReportError as error:
        return f"No table: {error}."


def _of_run(results: StudyResults, run_id: str) -> Chosen:
    trial = trial_of_run(results, run_id)
    return Chosen(
        trial,
        f"{trial.arm}/{trial.language} seed {trial.seed}: the run that was asked for",
        f"It is of a run of study `{results.study}` that was asked for by its id.",
    )


def _registered_name(store: Store, results: StudyResults, trial: TrialResult, given: str | None) -> str:
    from softnce_ray.tracking.models import check_name

    several = len(results.languages) > 1
    name = given if given is not None else results.study + (f".{plain(trial.language)}" if several else "")
    check_name(store, name)
    return name


def _register(store: Store, folder: Path, name: str, trial: TrialResult) -> tuple[str, str, str | None]:
    from softnce_ray.tracking.models import register

    tags = {"arm": trial.arm, "language": trial.language, "seed": str(trial.seed), "identity": trial.identity}
    done = register(store, folder, name, run_id=trial.run_id, tags=tags)
    return done.name, done.version, done.before
