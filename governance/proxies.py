"""Which proxy a call to the world goes through: UPSTREAM_PROXY, or the environment's (HTTPS_PROXY, NO_PROXY)."""

from __future__ import annotations

import ipaddress
import urllib.request
from urllib.parse import urlsplit

from django.conf import settings

# What UPSTREAM_PROXY says for none, whatever the environment says.
NONE = "none"


def proxy_for(url: str) -> str | None:
    """The proxy's URL; None where the address is called as it is, as one of this machine always is."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if settings.UPSTREAM_PROXY == NONE or is_loopback(host):
        return None
    if settings.UPSTREAM_PROXY:
        return str(settings.UPSTREAM_PROXY)
    if urllib.request.proxy_bypass(f"{host}:{parts.port}" if parts.port else host):
        return None
    found = urllib.request.getproxies()
    proxy = found.get(parts.scheme) or found.get("all")
    if not proxy:
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def is_loopback(host: str) -> bool:
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
