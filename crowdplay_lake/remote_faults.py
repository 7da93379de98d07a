"""What goes wrong between here and a remote file, told in our own words.

The libraries' words may repeat a signed address or a key, and differ from release to release: what is read from their
exceptions is the class, the HTTP status and S3's error code, never the text.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .errors import CrowdPlayLakeError

__all__ = ["shown", "told", "translated"]

_NO_CREDENTIALS = (
    "no credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; "
    "for a bucket that everybody may read, FSSPEC_S3='{\"anon\": true}'"
)
_DENIED = {
    "s3": "access denied: may the credentials in the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE) list and read it?",
    "http": "access denied: is the address still valid, and the .netrc file right?",
}
# In the names of the exceptions, and of their bases, of a connection that could not be made or broke.
_LOST = ("Connect", "Disconnect", "Payload", "HTTPClientError")
_UNREACHABLE = {
    "s3": "the storage cannot be reached: check the network, AWS_ENDPOINT_URL and AWS_REGION",
    "http": "the server cannot be reached: check the address and the network",
}


# Whose exceptions say what is wrong with a remote place.
_LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "s3fs", "fsspec", "deltalake", "_internal", "builtins")


def shown(location: str) -> str:
    """A location as it may be shown: the query of a URL may be a signature, and so a secret."""
    if location.lower().startswith(("http://", "https://")):
        return location.partition("?")[0].partition("#")[0]
    return location


@contextmanager
def told(uri: str) -> Iterator[None]:
    """What goes wrong with the remote place at ``uri`` in here becomes an `OSError` in our words."""
    try:
        yield
    except CrowdPlayLakeError:
        raise
    except Exception as error:
        is_ours = isinstance(error, OSError) and isinstance(error.filename, str)
        if is_ours or type(error).__module__.split(".")[0] not in _LIBRARIES or not _is_remote(error):
            raise
        raise translated(error, uri) from error


def _is_remote(error: Exception) -> bool:
    """Whether an exception, of a library that has others too, is about a remote place."""
    return isinstance(error, OSError) or not type(error).__module__.startswith("builtins")


def translated(error: Exception, uri: str) -> OSError:
    """The `OSError` that says what ``error`` of s3fs, botocore, fsspec or aiohttp means for ``uri``."""
    kind = "s3" if uri.startswith("s3:") else "http"
    where = shown(uri)
    # fsspec calls every fault of an HTTP address "not found", s3fs keeps botocore's: the cause knows more.
    chain = [error, error.__cause__] if isinstance(error.__cause__, Exception) else [error]
    names = {parent.__name__ for fault in chain if fault for parent in type(fault).__mro__}
    status = next((found for fault in chain if (found := _status(fault)) is not None), None)
    if names & {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"}:
        return PermissionError(errno.EACCES, _NO_CREDENTIALS, where)
    if status in (401, 403) or (status is None and isinstance(error, PermissionError)):
        return PermissionError(errno.EACCES, _DENIED[kind], where)
    if status in (404, 410):
        if _code(chain[-1]) == "NoSuchBucket":
            where = "/".join(where.split("/")[:3])
        return FileNotFoundError(errno.ENOENT, "there is no such file or folder", where)
    if status in (408, 504) or any("Timeout" in name for name in names):
        return TimeoutError(errno.ETIMEDOUT, "no answer in time; try again", where)
    if status is not None and (status == 429 or status >= 500):
        return ConnectionError(errno.EBUSY, f"the server is busy or broken (it answers {status}); try again", where)
    if status is None and any(part in name for name in names for part in _LOST):
        return ConnectionError(errno.ECONNABORTED, _UNREACHABLE[kind], where)
    if status is None and isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "there is no such file or folder", where)
    what = _code(chain[-1]) or (f"status {status}" if status else type(chain[-1]).__name__)
    return OSError(errno.EIO, f"cannot be read ({what})", where)


def _status(fault: Any) -> int | None:
    """The HTTP status of an exception of aiohttp or botocore."""
    found = getattr(fault, "status", None)
    response = getattr(fault, "response", None)
    if found is None and isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return found if isinstance(found, int) else None


def _code(fault: Any) -> str | None:
    """S3's own word, such as NoSuchBucket."""
    response = getattr(fault, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return code if isinstance(code, str) and code.isalnum() else None
