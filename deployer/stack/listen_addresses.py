"""Hosts as clients understand them: this machine, and what clouds tell a machine."""

import ipaddress
import re
from collections.abc import Iterator

_NAMES = ("metadata.google.internal", "metadata.goog", "metadata", "instance-data")
_NETWORKS = tuple(
    map(
        ipaddress.ip_network,
        (
            *("169.254.0.0/16", "fe80::/10", "fd00:ec2::/32", "fd20:ce::/32"),
            *("100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32"),
        ),
    )
)
"""Link-local addresses, and those of AWS, Google, Alibaba, Azure and Oracle beyond."""
_HOST = re.compile(
    r"[A-Za-z+]+://(?:[^/?#@]*@)*(?P<url>\[[^]]*\]|[^/?#:@]*)|(?:[^/@:]*@)?(?P<git>[^/:]+):"
)
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,8}|[0-9]{1,11}")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def host_of(address: str) -> str:
    """The host of a URL, or of ``git@host:path``; empty where there is none."""
    found = _HOST.match(address)
    return (found["url"] or found["git"] or "") if found else ""


def http_address(host: str, port: object) -> str:
    """The URL of a server that listens on a host, also on an IPv6 address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine and no other; a name that may be any is not."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_metadata(host: str) -> bool:
    """Return whether a host is where a cloud gives a machine its credentials.

    Also as C libraries read it: ``0xA9FEA9FE``, ``2852039166``, ``169.254.43518``.
    """
    name = host.lower().strip("[]").rstrip(".").partition("%")[0]
    if name in _NAMES or name.startswith("instance-data."):
        return True
    return any(
        address.version == network.version and address in network
        for address in _addresses(name)
        for network in _NETWORKS
    )


def _addresses(name: str) -> Iterator[Address]:
    try:
        found: Address = ipaddress.ip_address(name)
    except ValueError:
        yield from _as_c_reads(name)
        return
    yield found
    if isinstance(found, ipaddress.IPv6Address):
        inner = (found.ipv4_mapped, found.sixtofour, *(found.teredo or ()))
        yield from filter(None, inner)
        yield ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)  # 64:ff9b::a.b.c.d


def _as_c_reads(name: str) -> Iterator[Address]:
    """An IPv4 address of one to four numbers, octal and hexadecimal too."""
    parts = name.split(".")
    if not 1 <= len(parts) <= 4 or not all(map(_NUMBER.fullmatch, parts)):
        return
    try:
        numbers = [_number(part) for part in parts]
    except ValueError:
        return
    *above, last = numbers
    room = 4 - len(above)
    if last < 256**room and all(number < 256 for number in above):
        high = sum(n << 8 * (3 - at) for at, n in enumerate(above))
        yield ipaddress.IPv4Address(high + last)


def _number(text: str) -> int:
    if text.lower().startswith("0x"):
        return int(text, 16)
    return int(text, 8) if text.startswith("0") else int(text)
