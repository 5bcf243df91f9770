"""The Hugging Face Hub, or its absence, which its libraries take half a minute to say."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

SECONDS_TO_CONNECT = 3.0


def go_offline_if_unreachable() -> None:
    """Set HF_HUB_OFFLINE where the Hub does not answer: its libraries then use what is cached or fail.

    To be called before they are imported. Behind a proxy nothing is tried."""
    proxies = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    if "HF_HUB_OFFLINE" in os.environ or any(os.environ.get(name) for name in proxies):
        return
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    try:
        socket.create_connection((endpoint.hostname or "", port), timeout=SECONDS_TO_CONNECT).close()
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"
