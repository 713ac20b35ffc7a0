"""Ray's token authentication: whether a cluster asks for a token, and what is said where it does not take ours.

Driver and cluster must agree: a cluster without tokens takes a driver that has one, but its workers do not reach the
driver then. Ray itself tries for a minute where a token is refused, and then tells that it could not connect.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from softnce_ray.environment import variables

GIVE = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the cluster's"

NONE_HERE = f"RAY_AUTH_MODE is token, and Ray finds none here: {GIVE}"

_MODE, _TOKEN, _DISABLED = "RAY_AUTH_MODE", "token", "disabled"

_ANSWERING = 15.0
"""Seconds that a cluster has to say whether it takes a token."""

_ASK = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
_REFUSED = "InvalidAuthToken"
"""Of what Ray says of a token that is none, or another."""

_ANY_CALL = "/ray.rpc.RayletDriver/ClusterInfo"
"""Of Ray Client's server: it looks at the token first, and makes nothing for a caller that it does not know."""


class TokenError(RuntimeError):
    """This process and a cluster do not agree on a token."""


@contextlib.contextmanager
def authentication(mode: str, token: str | None = None) -> Iterator[None]:
    """Make Ray use a mode of authentication, and a token, until the context ends.

    Ray reads both once in a process: it is made to read them again, also when they are put back. No session of Ray may
    run at either time.
    """
    values = {_MODE: mode} | ({} if token is None else {"RAY_AUTH_TOKEN": token})
    try:
        with variables(values):
            _read_again()
            yield
    finally:
        _read_again()


def _read_again() -> None:
    """The mode first: threads of a session that has just ended may still ask for the token of the mode that they see,
    and end the process where there is none."""
    core = _core()
    core.Config.initialize("")
    core.AuthenticationTokenLoader.instance().reset_cache()


def has_token() -> bool:
    """Return True where Ray finds a token: in a variable, in the file that one names, or in the user's home."""
    loader = _core().AuthenticationTokenLoader.instance()
    loader.reset_cache()
    try:
        return bool(loader.has_token(ignore_auth_mode=True))
    except Exception:  # Ray's own, of no common kind: a file that RAY_AUTH_TOKEN_PATH names and that is not there
        return False


def of_our_own() -> tuple[str, str | None]:
    """Return mode and token of a session that this process starts for itself alone.

    A token that no other cluster knows, unless the environment says otherwise: Ray would write one into the user's
    home, and find it there for clusters that want none.
    """
    mode = os.environ.get(_MODE) or _TOKEN
    given = _MODE in os.environ and has_token()
    return mode, secrets.token_hex(32) if mode.lower() == _TOKEN and not given else None


def agreed(place: str, shown: str, *, client: bool = False, here: bool = False) -> str:
    """Return the mode of authentication that this process needs for a cluster: `token` or `disabled`.

    Where a cluster does not answer within seconds, what is wrong there is left to Ray to say.

    Args:
      place: HOST:PORT of the cluster, or of its Ray Client server where it is a `client`'s.
      shown: the address for people.
      here: it runs on this machine, where Ray itself may have found the same token: it gets ours, if there is one, also
        where RAY_AUTH_MODE is not set. What runs elsewhere gets one only where that says so.

    Raises:
      TokenError: it asks for a token and gets none, or one that it refuses; or RAY_AUTH_MODE asks for one and the
        cluster has none.
    """
    mode = os.environ.get(_MODE, "").lower()
    modes = [_DISABLED, _TOKEN] if mode == _TOKEN else [_DISABLED]
    if mode == _TOKEN and not has_token():
        raise TokenError(NONE_HERE)
    refused = _refused(place, modes, client)
    if mode == _TOKEN and refused[_DISABLED] is False:
        raise TokenError(
            f"{shown} asks for no token, and RAY_AUTH_MODE=token is set here: unset it, or start the cluster's nodes "
            "with RAY_AUTH_MODE=token"
        )
    if mode != _TOKEN and not refused[_DISABLED]:
        return _DISABLED
    if not mode and here and has_token():
        refused |= _refused(place, [_TOKEN], client)
    if _TOKEN not in refused:
        raise TokenError(refusal(shown, none=True))
    if refused[_TOKEN]:
        raise TokenError(refusal(shown))
    return _TOKEN


def refusal(shown: str, *, none: bool = False) -> str:
    """Return the line on a cluster, as it is shown, that refuses us; with `none` it got no token."""
    return f"{shown} asks for a token, got {'no token' if none else 'a token that it refuses'}: {GIVE}"


def _refused(place: str, modes: Sequence[str], client: bool) -> dict[str, bool | None]:
    """Return, for each mode of authentication, whether a cluster refuses a process that has it and this one's token.

    None: there is no answer, or one of another kind.
    """
    if client:
        return {mode: _refused_by_client_server(place, mode) for mode in modes}
    with ThreadPoolExecutor() as asking:  # processes that start side by side
        return dict(zip(modes, asking.map(lambda mode: _refused_by_cluster(place, mode), modes), strict=True))


def _refused_by_cluster(place: str, mode: str) -> bool | None:
    """In a process of its own: what Ray's core says goes to stderr."""
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _ASK, place],
            env={**os.environ, _MODE: mode},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ANSWERING,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if asked.returncode == 0:
        return False
    return True if _REFUSED in asked.stderr else None


def _refused_by_client_server(place: str, mode: str) -> bool | None:
    try:
        import grpc
        from ray._private.grpc_utils import init_grpc_channel
    except ImportError:  # as Ray Client itself will say
        return None
    with authentication(mode):
        channel: Any = init_grpc_channel(place)
        with channel:
            try:
                channel.unary_unary(_ANY_CALL)(b"", timeout=_ANSWERING)
            except grpc.RpcError as error:
                said: Any = error
                if said.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    return None
                return said.code() is grpc.StatusCode.UNAUTHENTICATED
    return False


def _core() -> Any:
    from ray import _raylet

    return _raylet
