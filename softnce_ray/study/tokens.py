"""The token that a cluster of Ray may ask for: whether it takes ours, and what is said where it does not.

Ray itself tries for a minute where a token is refused, and then tells that it could not connect.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from softnce_ray.study import OWN_TOKEN

GIVE = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the cluster's"

NONE_HERE = f"RAY_AUTH_MODE is token, and Ray finds none here: {GIVE}"

_ANSWERING = 15.0
"""Seconds that a cluster has to say whether it takes a token."""

_ASK = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
_REFUSED = "InvalidAuthToken"
"""Of what Ray says of a token that is none, or another."""

_ANY_CALL = "/ray.rpc.RayletDriver/ClusterInfo"
"""Of Ray Client's server: it looks at the token first, and makes nothing for a caller that it does not know."""


def refusal(shown: str, *, none: bool = False) -> str:
    """What is said of a cluster, as it is shown, that refuses us; with `none` it got no token."""
    got = "no token" if none or os.environ.get("RAY_AUTH_TOKEN") == OWN_TOKEN else "a token that it refuses"
    return f"{shown} asks for a token, got {got}: {GIVE}"


def is_refused(place: str, *, client: bool = False) -> bool:
    """Whether the cluster at a place (HOST:PORT) refuses the token of this process, or that it has none.

    False where there is no answer within seconds, or one of another kind: what is wrong there is Ray's to say.

    Args:
      client: the place is that of Ray Client's server (`ray://`).

    Raises:
      ray.exceptions.AuthenticationError: this process should have a token, and has none.
    """
    return _by_client(place) if client else _by_cluster(place)


def _by_cluster(place: str) -> bool:
    """In a process of its own: what Ray's core says goes to stderr."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
        from ray import _raylet

        core: Any = _raylet
        core.AuthenticationTokenLoader.instance().has_token()  # raises where there is none
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _ASK, place],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ANSWERING,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode != 0 and _REFUSED in asked.stderr


def _by_client(place: str) -> bool:
    try:
        import grpc
        from ray._private.grpc_utils import init_grpc_channel
    except ImportError:  # as Ray Client itself will say
        return False
    channel: Any = init_grpc_channel(place)
    with channel:
        try:
            channel.unary_unary(_ANY_CALL)(b"", timeout=_ANSWERING)
        except grpc.RpcError as error:
            said: Any = error
            return said.code() is grpc.StatusCode.UNAUTHENTICATED
    return False
