"""Addresses that count as one, because whoever has one of them has all."""

from __future__ import annotations

import ipaddress

# What one line to the internet has of addresses of version 6, and what a customer is given where one is given more; of
# version 4 it has one.
LINE_BITS, SITE_BITS = 64, 48
NO_ADDRESS = "0.0.0.0"  # noqa: S104 - nothing listens there


def counted(address: str, *, bits: int = LINE_BITS) -> str:
    """An address, of version 6 the first of its network of so many bits.

    Connections without an address, over a socket of this machine, count as one.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return NO_ADDRESS
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((ip, bits), strict=False).network_address)
