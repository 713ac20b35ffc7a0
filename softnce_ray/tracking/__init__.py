"""MLflow: one experiment per study, a parent run, a run per arm below it and a run per trial below that.

The only importer of mlflow.
"""

from softnce_ray.tracking.connection import TrackingError
from softnce_ray.tracking.journal import JournalError, final_status, unsent_records
from softnce_ray.tracking.reading import (
    download_model,
    expect_study,
    load_results,
    load_test_ranks,
    recorded_models,
    studies,
)
from softnce_ray.tracking.sending import Unsent
from softnce_ray.tracking.serving import serve
from softnce_ray.tracking.writing import Tracker

__all__ = [
    "JournalError",
    "Tracker",
    "TrackingError",
    "Unsent",
    "download_model",
    "expect_study",
    "final_status",
    "load_results",
    "load_test_ranks",
    "recorded_models",
    "serve",
    "studies",
    "unsent_records",
]
