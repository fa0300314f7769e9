"""URLs of checkpoints, and the object store that each is opened with."""

import ipaddress
import os
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from sllm_store.errors import InvalidArgumentError, UnsupportedError
from sllm_store.remote_errors import obstore_errors

BUCKET_SCHEMES: Final = ("s3", "gs", "az")
WEB_SCHEMES: Final = ("https", "http")

_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT")
# Longer than any transfer: what counts is progress.
_WHOLE_REQUEST: Final = "30 days"


@dataclass(frozen=True)
class RemoteOptions:
    """How to fetch. At most `in_flight` ranges of `range_bytes` are in memory at a time.

    range_bytes: a multiple of 1 MiB. progress_s: how long a server may send nothing. attempts: how often a request is
    made before its failure counts, those that bring bytes aside; between them are pauses that begin with `pause_s` and
    double. allow_http: take http:// of any host, not of the loopback alone.
    """

    range_bytes: int = 4 << 20
    in_flight: int = 16
    progress_s: float = 30.0
    attempts: int = 6
    pause_s: float = 0.2
    allow_http: bool = False

    def __post_init__(self) -> None:
        if self.range_bytes <= 0 or self.range_bytes % (1 << 20):
            raise InvalidArgumentError(f"ranges of {self.range_bytes} bytes; a multiple of 1048576 is needed")
        if min(self.in_flight, self.attempts) < 1 or self.progress_s <= 0 or self.pause_s < 0:
            raise InvalidArgumentError(f"in_flight, attempts and progress_s are at least 1 and above 0: {self}")


class RemoteUrl(NamedTuple):
    """A checkpoint's URL: its folder and, where it is a single file, that one's name."""

    url: str
    folder: str
    file: str
    scheme: str
    server: str

    @property
    def can_list(self) -> bool:
        """Whether the names of a folder's objects can be asked for."""
        return self.scheme in BUCKET_SCHEMES

    @property
    def tier(self) -> str:
        """What bandwidths are kept by."""
        return f"{self.scheme}://{self.server}"


def parse_url(url: str, *, allow_http: bool) -> RemoteUrl:
    """Raises UnsupportedError for another scheme, InvalidArgumentError for a URL that cannot be or may not be taken."""
    parts = _split(url)
    if parts.scheme not in (*BUCKET_SCHEMES, *WEB_SCHEMES):
        raise UnsupportedError(f"{url} is none of s3://, gs://, az://, https:// and http://")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InvalidArgumentError(
            f"{parts.scheme}://{parts.hostname}{parts.path} comes with a password, a query or a fragment; hint: "
            "credentials are taken from the environment"
        )
    if not parts.hostname:
        raise InvalidArgumentError(f"{url} names no {'bucket' if parts.scheme in BUCKET_SCHEMES else 'host'}")
    if parts.scheme == "http" and not allow_http and not is_loopback(parts.hostname):
        raise InvalidArgumentError(
            f"{url} would be fetched unencrypted from {parts.hostname}; hint: https://, or allow http explicitly"
        )
    whole = url.rstrip("/")
    folder, _, name = whole.rpartition("/")
    is_file = name.endswith(".safetensors") and parts.path.rstrip("/") != ""
    return RemoteUrl(whole, folder if is_file else whole, name if is_file else "", parts.scheme, parts.netloc)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name or its address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_store(url: RemoteUrl, options: RemoteOptions) -> Any:
    """obstore's store of the URL's folder; credentials and endpoints are what it finds in the environment.

    Raises UnsupportedError without obstore, InvalidArgumentError for settings that it refuses.
    """
    try:
        from obstore.store import HTTPStore, from_url
    except ImportError as error:
        raise UnsupportedError(f"{url.url} needs obstore; hint: pip install 'sllm[remote]'") from error
    settings: dict[str, Any] = {
        "client_options": {
            "timeout": _WHOLE_REQUEST,
            "read_timeout": f"{max(1, round(options.progress_s * 1000))}ms",
            "pool_max_idle_per_host": str(options.in_flight),
        },
        # Its own retries know nothing of ours, nor of being stopped.
        "retry_config": {"max_retries": 0},
    }
    if options.allow_http or url.scheme == "http" or _has_loopback_endpoint():
        settings["client_options"]["allow_http"] = True
    with obstore_errors(f"cannot open {url.folder}"):
        return HTTPStore.from_url(url.folder, **settings) if not url.can_list else from_url(url.folder, **settings)


def _has_loopback_endpoint() -> bool:
    return any(
        endpoint.startswith("http://") and is_loopback(urlsplit(endpoint).hostname or "")
        for endpoint in (os.environ.get(name, "") for name in _ENDPOINTS)
    )


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise InvalidArgumentError(f"{url} is no URL: {error}") from error
