"""What could hurt a study, found before it starts: facts of each node, and what they mean.

`settling` reads what the files of a study's models say, `models` and `networks` look at what the study's own file says,
none of which needs a cluster. `facts` are gathered on a node, `asking` gathers them over Ray, `needs` says what a study
takes, `judging` compares the two, `tracking` tries MLflow, and `examining` does it all.
"""

from softnce_ray.study.doctor.examining import check_before_launch, check_settings, check_texts, examine, settle
from softnce_ray.study.doctor.finding import Finding

__all__ = ["Finding", "check_before_launch", "check_settings", "check_texts", "examine", "settle"]
