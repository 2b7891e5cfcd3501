"""What the server refuses: errors as answers, and JSON that is read with care."""

import json
import logging
import re
import reprlib
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from models.control_tokens import encodable
from models.errors import StorageError, UserError

log = logging.getLogger(__name__)

# Deeper values would end recursive code, such as templates, somewhere else.
DEEPEST = 64
PATH = re.compile(r"(?<![\w.])(?:~?/[^\s:'\",()]+)*/([^\s:'\",()/]+)/?")

# Of a value of megabytes, as much as is shown.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


class ApiError(Exception):
    """An answer other than 200: status, a line for a person, a code for a program."""

    def __init__(self, status: int, message: str, *, code: str, retry_after: int = 0):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.retry_after = retry_after

    @property
    def type(self) -> str:
        """OpenAI's coarse class of errors: whose fault it is."""
        return "invalid_request_error" if self.status < 500 else "server_error"

    def json(self) -> dict[str, Any]:
        """The body that goes with it."""
        error = {"message": self.message, "type": self.type, "code": self.code}
        return {"error": error | {"param": None}}


def bad_field(name: str, value: Any, why: str) -> ApiError:
    """A 400 that names field, value and what was expected."""
    shown = _SHORT.repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return ApiError(400, f"{name}: {shown}: {why}", code="invalid_value")


def without_paths(text: str) -> str:
    """One line without the folders of absolute paths: they are nobody's business."""
    return PATH.sub(r"\1", " ".join(text.split()))


def internal(error: Exception) -> ApiError:
    """A 500 for what should not have happened, in one line."""
    text = without_paths(f"{type(error).__name__}: {error}".split("\n")[0])
    return ApiError(500, text, code="internal_error")


def refusal(path: str, error: Exception) -> ApiError:
    """What is answered where a route fails; more of it is in the log."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        return ApiError(400, without_paths(str(error)), code="invalid_value")
    if isinstance(error, StorageError):
        log.error("%s: %s", path, error)
        return ApiError(500, without_paths(str(error)), code="storage")
    log.error("%s failed", path, exc_info=error)
    return internal(error)


def error_response(error: ApiError) -> Response:
    """The whole answer."""
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in (408, 413):
        headers["Connection"] = "close"
    return JSONResponse(error.json(), status_code=error.status, headers=headers)


async def no_route(request: Request, error: Any) -> Response:
    """404 and 405."""
    why = f"{request.method} {request.url.path}: no such route"
    return error_response(ApiError(error.status_code, why, code="no_route"))


def read_json(raw: bytes) -> Any:
    """The JSON of a request's body; its text can be written to a file or a request.

    Raises:
      ApiError: 400, it is not UTF-8 or JSON, or nested too deeply.
    """
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError as error:
        raise too_deep() from error
    except ValueError as error:
        why = f"body: not JSON ({error}): send a JSON object"
        raise ApiError(400, why, code="invalid_json") from error
    return _clean(value, DEEPEST)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def too_deep() -> ApiError:
    """A 400 for a value that is nested more than `DEEPEST` deep."""
    why = f"body: nested more than {DEEPEST} deep: send a flatter value"
    return ApiError(400, why, code="invalid_json")


def _clean(value: Any, depth: int) -> Any:
    """``value`` with text that can be encoded: an escape may be half a surrogate."""
    if isinstance(value, str):
        return encodable(value)
    if not isinstance(value, dict | list):
        return value
    if not depth:
        raise too_deep()
    if isinstance(value, dict):
        return {encodable(k): _clean(v, depth - 1) for k, v in value.items()}
    if set(map(type, value)) <= {int}:  # a prompt of a million ids
        return value
    return [_clean(item, depth - 1) for item in value]
