"""Studies as jobs of a Ray cluster, over its Jobs server: the terminal that sent one can be closed.

`checking` says what of a study and of this environment the cluster cannot use, `sending` makes a job of the rest,
`client` talks to the server, `following` reads a job's lines as they come, and `progress` says what they mean.
"""

from softnce_ray.study.jobs.client import Job, JobError, Jobs, of_interest
from softnce_ray.study.jobs.following import follow
from softnce_ray.study.jobs.progress import Progress, past_checks, progress_of
from softnce_ray.study.jobs.sending import Submission, send, submission

__all__ = [
    "Job",
    "JobError",
    "Jobs",
    "Progress",
    "Submission",
    "follow",
    "of_interest",
    "past_checks",
    "progress_of",
    "send",
    "submission",
]
