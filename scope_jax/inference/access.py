"""Who may ask the server what: secrets, and what a request has to show.

Two secrets. The key opens all routes but ``/health`` and is needed wherever others can
reach the port. The control secret opens the routes that exchange models; each run's
supervisor makes one. Both come from the environment or a file: what stands in a command
line is seen by every user of the machine, and a run's configuration is kept and shared.
"""

import hmac
import ipaddress
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import Request as HttpRequest

from models.errors import UserError
from scope_jax.inference.config import InferenceConfig
from scope_jax.inference.errors import ApiError

CONTROL_HEADER = "X-Scope-Control"
# Attribute of `Secrets` -> environment variable; with _FILE, of a file that holds it.
VARIABLES = {
    "api": "SCOPE_API_KEY",
    "control": "SCOPE_CONTROL_SECRET",
    "judge": "SCOPE_JUDGE_API_KEY",
    "model": "SCOPE_MODEL_API_KEY",
    "retrieval": "SCOPE_RETRIEVAL_API_KEY",
}


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """What a client shows to servers, and our server asks for. Never printed."""

    api: str = field(default="", repr=False)
    """Key of our server. Empty: it asks for none."""
    control: str = field(default="", repr=False)
    """Control secret of our server. Empty: its models cannot be exchanged."""
    judge: str = field(default="", repr=False)
    """Key of the server at ``inference.judge_url``."""
    model: str = field(default="", repr=False)
    """Key of a server whose model is evaluated."""
    retrieval: str = field(default="", repr=False)
    """Key of the server at ``inference.retrieval_url``."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Secrets":
        """The secrets that are given.

        Raises:
          UserError: a file cannot be read, or a secret is empty or has odd characters.
        """
        return cls(**{n: _given(v, environment) for n, v in VARIABLES.items()})

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """``given`` for our server's process: with its own two secrets, no others."""
        forms = {form for v in VARIABLES.values() for form in (v, f"{v}_FILE")}
        kept = {name: value for name, value in given.items() if name not in forms}
        own = {VARIABLES[n]: getattr(self, n) for n in ("api", "control")}
        return kept | {name: value for name, value in own.items() if value}

    def headers(self) -> dict[str, str]:
        """What a request to our server shows; control routes need more."""
        return bearer(self.api)

    def control_headers(self) -> dict[str, str]:
        """What a request to a control route shows."""
        shown = {CONTROL_HEADER: self.control} if self.control else {}
        return self.headers() | shown


NO_SECRETS = Secrets()


def run_secrets(config: InferenceConfig) -> Secrets:
    """The secrets of a run: for a server of its own, new ones where none are given.

    Raises:
      UserError: the server is somebody else's, and its control secret is not given.
    """
    given = Secrets.from_environment()
    if config.url:
        if not given.control:
            raise UserError(
                f"inference.url={config.url}: a run exchanges its models, and "
                f"{VARIABLES['control']} is not set: set it (or "
                f"{VARIABLES['control']}_FILE) as scripts/serve.py said at its start"
            )
        return given
    reached = not is_loopback(config.host)
    key = given.api or (new_secret() if reached else "")
    return replace(given, api=key, control=given.control or new_secret())


def bearer(key: str) -> dict[str, str]:
    """The header that shows a key; none without one."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def new_secret() -> str:
    """A secret that nobody guesses."""
    return secrets.token_urlsafe(32)


def forget(environment: dict[str, str] | os._Environ = os.environ) -> None:
    """Removes the secrets from the environment, once they have been read."""
    for variable in VARIABLES.values():
        environment.pop(variable, None)


def _given(variable: str, environment: Mapping[str, str]) -> str:
    value, file = environment.get(variable), environment.get(f"{variable}_FILE")
    if value is None and file is not None:
        try:
            value = Path(file).expanduser().read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "not plain text"
            raise UserError(
                f"{variable}_FILE={file}: cannot be read ({why}): name a file that "
                "holds the secret alone"
            ) from error
    if value is None:
        return ""
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise UserError(
            f"{variable}: empty, or with characters that no header can hold: give one "
            "word of letters, digits and signs"
        )
    return value


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on ``host``."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def check_reach(host: str, api_key: str) -> None:
    """Refuses a server that others can reach and use.

    Raises:
      UserError: it listens beyond this machine, and asks for no key.
    """
    if not is_loopback(host) and not api_key:
        raise UserError(
            f"inference.host={host}: others can reach it, and there is no key: set "
            f"{VARIABLES['api']} (or {VARIABLES['api']}_FILE) for the server and its "
            "clients, or listen on 127.0.0.1"
        )


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


class Guard:
    """Checks what every request has to show before anything is done for it.

    A web page that is open in a browser on this machine can send requests here. Its
    requests have an ``Origin`` of their own; and where its name was made to lead here
    (DNS rebinding), that name as ``Host``.

    Args:
      host: address that the server listens on.
      names: further names under which it is reached.
      given: the server's secrets.
    """

    def __init__(
        self, host: str, *, names: tuple[str, ...] = (), given: Secrets = NO_SECRETS
    ):
        self._given = given
        self._names = {host.lower(), *(name.lower() for name in names)}
        self._open = not is_loopback(host)
        if self._open:
            self._names.add(socket.gethostname().lower())

    def check(self, request: HttpRequest, *, control: bool, anyone: bool) -> None:
        """Returns if the request may go on.

        Args:
          control: whether it exchanges models.
          anyone: whether it needs no key.

        Raises:
          ApiError: 400, 401, 403 or 415.
        """
        headers = request.headers
        host = headers.get("host", "")
        if not self._is_here(_name_of(host)):
            why = (
                f"Host: {host[:100]!r}: not a name of this server: see inference.names"
            )
            raise ApiError(403, why, code="wrong_host")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            why = (
                f"Origin: {origin[:100]!r}: other sites' pages may not ask this server"
            )
            raise ApiError(403, why, code="wrong_origin")
        if request.method == "POST":
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                why = f"Content-Type: {kind[:100]!r}: must be application/json"
                raise ApiError(415, why, code="wrong_content_type")
        if self._given.api and not anyone:
            scheme, _, shown = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not _same(shown, self._given.api):
                why = "Authorization: no key, or a wrong one: send 'Bearer KEY'"
                raise ApiError(401, why, code="invalid_api_key")
        shown = headers.get(CONTROL_HEADER)
        if shown is None and not control:
            return
        if not self._given.control:
            why = f"started without {VARIABLES['control']}: its models stay as they are"
            raise ApiError(403, f"this server was {why}", code="no_control")
        if shown is None or not _same(shown, self._given.control):
            why = f"not this server's control secret: set {VARIABLES['control']}"
            raise ApiError(403, f"{CONTROL_HEADER}: {why}", code="wrong_control_secret")

    def _is_here(self, name: str) -> bool:
        if name in self._names or is_loopback(name):
            return True
        # No name that leads here can be forged into a number.
        return self._open and _address(name) is not None


def _name_of(host: str) -> str:
    """The name in a ``Host`` header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _same(shown: str, secret: str) -> bool:
    return hmac.compare_digest(shown.encode("latin-1", "replace"), secret.encode())
