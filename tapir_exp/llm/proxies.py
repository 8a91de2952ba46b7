"""Proxies that the environment names: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, in capitals or not."""

import os
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

from tapir_exp.core.errors import ConfigError

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def environment_proxy(url: str) -> str | None:
    """Return the address of the proxy for a URL, or None for a direct connection.

    Addresses of this machine are never reached through a proxy.

    Raises:
        ConfigError: If the proxy is of a kind that direct calls do not support, such as SOCKS.
    """
    parts = urlsplit(url)
    proxies = getproxies_environment()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    host = parts.hostname or ""
    if not proxy or is_loopback(host) or _is_excepted(host, parts.netloc.rpartition("@")[2], proxies.get("no", "")):
        return None
    address = proxy if "://" in proxy else f"http://{proxy}"
    shown = without_credentials(address)
    try:
        proxy_parts = urlsplit(address)
        usable = proxy_parts.scheme in {"http", "https"} and proxy_parts.hostname and proxy_parts.port != 0
    except ValueError:  # a port that is no number
        usable = False
    if not usable:
        problem = (
            f"the proxy {shown} of the environment (HTTP_PROXY, HTTPS_PROXY or ALL_PROXY) cannot be used: expected "
            f"http://host:port; set llm.use_litellm=true for SOCKS, or add {host} to NO_PROXY"
        )
        raise ConfigError([problem])
    return address


def _is_excepted(host: str, authority: str, listed: str) -> bool:
    """Return True if NO_PROXY lists a host: by name, by a domain above it, with its port, by network, or by *."""
    for name in (entry.strip().lower() for entry in listed.split(",")):
        domain = name.removeprefix("*").lstrip(".")
        if name == "*" or authority.lower() == name or (domain and f".{host.lower()}".endswith(f".{domain}")):
            return True
        try:
            if ip_address(host) in ip_network(name, strict=False):
                return True
        except ValueError:  # one of them is a name
            continue
    return False


def is_loopback(host: str) -> bool:
    """Return True for an address of this machine."""
    if host.lower() in LOOPBACK or host.lower().endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def except_loopback() -> None:
    """Add the addresses of this machine to NO_PROXY, for libraries that read the environment themselves."""
    if not getproxies_environment():
        return
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = [name.strip() for name in listed.split(",") if name.strip()]
    if "*" not in names:
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(dict.fromkeys([*names, *LOOPBACK]))


def describe_address(url: str) -> str:
    """Return scheme, host and port of a URL, and the proxy on the way to it, without credentials."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return without_credentials(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    try:
        proxy = environment_proxy(url)
    except ConfigError:
        proxy = None
    through = f" through the proxy {without_credentials(proxy)}" if proxy else ""
    return f"{parts.scheme}://{host}:{port}{through}"


def without_credentials(url: str) -> str:
    """Return a URL without user and password."""
    scheme, separator, rest = url.rpartition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"
