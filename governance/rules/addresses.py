"""Which addresses are the internet's, and which lead into a network that the product may stand in. Pure."""

from __future__ import annotations

import ipaddress
import re

# Of version 6 the internet has this part; the rest stands for addresses of version 4, or is a network's own.
_INTERNET_6 = ipaddress.IPv6Network("2000::/3")
# What networks without version 4 call its addresses by (NAT64).
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
# Not the internet's, though Python's own list has them so or, in some of its versions, in part.
_NETWORKS_OWN = tuple(
    map(
        ipaddress.ip_network,
        (
            "192.0.0.0/24",  # protocols of the network itself; clouds answer with secrets there
            "192.88.99.0/24",  # the way into 6to4
            "168.63.129.16/32",  # a cloud's own service to its machines
            "2002::/16",  # 6to4: any address of version 4
            "3fff::/20",  # for documents
        ),
    )
)
_PRIVATE_NAMES = ("localhost", "local", "internal", "lan", "home.arpa")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet's, also where it stands for another one."""
    ip = _meant(ipaddress.ip_address(address.partition("%")[0]))
    if ip.version == 6 and ip not in _INTERNET_6:
        return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _NETWORKS_OWN)


def is_private(host: str) -> bool:
    """Whether a host is loopback or private by its name or number; what a name resolves to is seen at each call."""
    host = host.rstrip(".").lower()
    try:
        return not is_public(host)
    except ValueError:
        # Numbers in other spellings (2130706433, 0x7f.1) mean addresses too; no public API is called by one.
        numeric = re.fullmatch(r"[0-9.]+|0x[0-9a-f.x]+", host) is not None
        return numeric or host in _PRIVATE_NAMES or host.endswith(tuple(f".{name}" for name in _PRIVATE_NAMES))


def _meant(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address of version 4 that one of version 6 stands for on its way, else the address itself."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _TRANSLATED:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip
