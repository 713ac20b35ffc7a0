"""Running a study: what to train next, Ray that trains it, Optuna that searches, and the records of it all."""

import os
import secrets
import sys

OWN_TOKEN = secrets.token_hex(32)
"""Of the cluster that a launch starts for itself, where nobody gave one: no other cluster knows it."""

# Ray reads these when it is imported, and every module that imports it lies here.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# No files and tables of Tune's own, no snapshots that nobody restores from.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
# Workers start side by side: how many trials there are at once, the driver says.
os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "32")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
if "ray" not in sys.modules and not (os.environ.get("RAY_AUTH_MODE") or os.environ.get("RAY_ADDRESS")):
    # A local cluster of our own gets a token of its own, so that Ray writes none into the user's home. A Ray that
    # was imported before has made up its mind already, and would not know its own cluster's token.
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = OWN_TOKEN
