"""Ray-distributed ablations of contrastive losses for code search, tracked in MLflow."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("softnce-ray")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
