"""Whether the hub of Hugging Face can be reached. Its client retries each file for a minute before it says so."""

from __future__ import annotations

import contextlib
import os
import socket
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

PATIENCE = 5.0  # seconds in which a connection has to come about


@contextlib.contextmanager
def hub_or_cache() -> Iterator[None]:
    """Within, the hub's client reads its cache alone where the hub cannot be reached; what is not there raises
    ConnectionError at once."""
    from huggingface_hub import constants

    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    if constants.HF_HUB_OFFLINE or _answers(endpoint):
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    except Exception as error:  # whatever a library makes of it
        problem = f"{urlsplit(endpoint).hostname} cannot be reached, and its cache on this machine does not have it"
        raise ConnectionError(problem) from error
    finally:
        constants.HF_HUB_OFFLINE = False


def _answers(address: str) -> bool:
    """Whether somebody takes a connection there. Of what lies behind a proxy it is not known: then yes."""
    url = urlsplit(address)
    host, port = url.hostname or "", url.port or {"http": 80}.get(url.scheme, 443)
    proxies = urllib.request.getproxies()
    if {url.scheme, "all"} & proxies.keys() and not urllib.request.proxy_bypass(host):
        return True
    try:
        with socket.create_connection((host, port), timeout=PATIENCE):
            return True
    except OSError:
        return False
