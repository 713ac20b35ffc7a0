"""What could hurt a study, found before it starts: facts of each node, and what they mean.

`models` and `networks` look at what a study's file says, which needs no cluster. `facts` are gathered on a node,
`asking` gathers them over Ray, `needs` says what a study takes, `judging` compares the two, `tracking` tries MLflow,
and `examining` does it all.
"""

from softnce_ray.study.doctor.examining import check_before_launch, check_settings, examine
from softnce_ray.study.doctor.finding import Finding

__all__ = ["Finding", "check_before_launch", "check_settings", "examine"]
