"""Models that preparing a study will train or run, as what is planned of trials."""

from __future__ import annotations

from softnce_ray.config import SimCSEEstimator, StudyConfig, TrainedEstimator, TrialConfig, flatten, resolved
from softnce_ray.corpus.store import Corpus
from softnce_ray.preparation import infonce_trial, to_learn
from softnce_ray.storage import Location
from softnce_ray.study.cells import Cell
from softnce_ray.study.estimate import SIMCSE, Planned
from softnce_ray.study.preparing import batches
from softnce_ray.study.record import hardware
from softnce_ray.tracking.params import params_of

_ENCODING = 1 / 3
"""Epochs that the vectors of all training pairs take: of each pair forwards alone, which is a third of a step."""


def models_to_train(study: StudyConfig, corpus: Corpus, root: Location) -> list[list[list[Planned]]]:
    """Return the models of estimators that `root` lacks, of each cell, in the batches that cells are prepared in. One
    that several cells share is the first one's. A model that an estimator names is run alone, and has no settings.

    Raises:
      CorpusError: a table of the corpus cannot be read.
      StorageError: `root` is a URI and cannot be used.
      MachineError: a package that brings a model is not installed.
    """
    known: set[str] = set()
    found = []
    for batch in batches(study):
        of_batch = []
        for cell in batch:
            languages = study.training_set(cell.language)
            models = to_learn(study.arms[cell.arm], corpus, languages, root)
            of_batch.append([_planned(study, corpus, cell, part) for name, part in models.items() if name not in known])
            known |= models.keys()
        found.append(of_batch)
    return found


def _planned(study: StudyConfig, corpus: Corpus, cell: Cell, estimator: SimCSEEstimator | TrainedEstimator) -> Planned:
    """The training of a model: `trained` as the trial that it is, `simcse` of the queries of the whole corpus."""
    if estimator.model is not None:
        return Planned(
            cell.arm, cell.language, {}, corpus.fingerprint, 0, 0, search=0, confirm=1, model=estimator.model
        )
    languages = study.training_set(cell.language)
    if isinstance(estimator, TrainedEstimator):
        trial = infonce_trial(estimator, study.arms[cell.arm], languages)
        trained_on, epochs = languages.train, trial.training.epochs + _ENCODING
    else:
        trial = _of_queries(infonce_trial(TrainedEstimator(), study.arms[cell.arm], languages), estimator)
        trained_on, epochs = tuple(corpus.languages), float(estimator.epochs)
    return Planned(
        arm=cell.arm,
        language=cell.language,
        settings=params_of(flatten(resolved(trial))),
        corpus=corpus.fingerprint,
        pairs=sum(corpus.manifest.languages[name].pairs.get("train", 0) for name in trained_on),
        epochs=epochs,
        search=0,
        confirm=1,
        resources=hardware(study.resources),
        model=SIMCSE if isinstance(estimator, SimCSEEstimator) else estimator.name,
        workers=study.resources.workers,
    )


def _of_queries(trial: TrialConfig, estimator: SimCSEEstimator) -> TrialConfig:
    """A trial with as many steps and epochs as `simcse` has."""
    told = {"batch_size": estimator.batch_size, "batch_tokens": None, "epochs": estimator.epochs}
    return trial.model_copy(update={"training": trial.training.model_copy(update=told)})
