"""Which searched settings mattered, as Optuna judges it from the stored searches."""

from __future__ import annotations

import warnings

import optuna
from optuna.trial import TrialState

from softnce_ray.errors import UserError
from softnce_ray.results import definition_of
from softnce_ray.store import Store
from softnce_ray.study.storage import open_storage
from softnce_ray.tracking.history import load_background
from softnce_ray.uris import sqlite_path

LEAST_TRIALS = 4
"""Finished trials of a search below which nothing is said of its settings."""


class ImportancesError(UserError, RuntimeError):
    """The searches of a store cannot be read here."""


def importances(store: Store, study: str) -> dict[tuple[str, str], dict[str, float]]:
    """Importance of each searched setting for the validation MRR, by (arm, language): shares that sum to one.

    Of the searches of the arms' present definitions, those with at least `LEAST_TRIALS` finished trials; trials that
    were stopped early or failed do not count. PED-ANOVA: how far the best tenth of the trials differs from all of them
    in a setting (Watanabe, Bansal, Hutter, IJCAI 2023).

    Raises:
      ImportancesError: the searches are not on this machine, or cannot be read.
      StoreError: they are no searches, or of another version of Optuna.
      TrackingError: no such store or study.
    """
    path = sqlite_path(store.optuna_url)
    assert path is not None
    if not path.exists():
        raise ImportancesError(
            f"the searches lie in {path.name} of the store's folder, which is not here: make the report where the "
            "study ran, or give its folder with --store"
        )
    definitions = load_background(store, study).definitions
    storage = open_storage(store.optuna_url, to_read=True)
    try:
        names = [each.study_name for each in storage.get_all_studies()]
    except Exception as error:  # whatever SQLAlchemy makes of a database that is no database
        raise ImportancesError(f"the searches in {path} cannot be read: {error}") from error
    found = {}
    for name in names:
        of_study, arm, language, definition = ["", "", "", *name.rsplit("/", 3)][-4:]
        if of_study != study or definition_of(definitions, arm, language) != definition:
            continue
        search = optuna.load_study(study_name=name, storage=storage)
        if shares := _shares(search):
            found[arm, language] = shares
    return found


def _shares(search: optuna.Study) -> dict[str, float]:
    complete = search.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < LEAST_TRIALS or len({trial.value for trial in complete}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of evaluators that Optuna calls experimental, and of settings with one value
        try:
            return dict(optuna.importance.get_param_importances(search))
        except (ValueError, RuntimeError):  # settings that no trial varied
            return {}
