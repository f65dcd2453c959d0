"""Which files a manifest may name: what its author cannot reach, nobody reads for him.

Decisions on plain text: nothing is looked up and nothing opened. `actors.reference_files` opens, and sees to what shows
only then: where a link on a disk leads, which address a name has, where a server sends its caller.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from actors.limits import MAX_REFERENCE_CHARACTERS
from actors.plain_text import require_plain
from actors.redaction import redact
from actors.storage import resolve

_WEB_PORTS = {"http": 80, "https": 443}
_LOCAL_SCHEMES = ("file", "local")
_SHOWN_PREFIXES = 5
_SCHEME = re.compile("[a-z][a-z0-9+.-]+")
_QUOTED_ALREADY = "/%:@!$&'()*+,;=~-._?"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class ReferenceRefused(Exception):
    """A reference is not allowed; the message is one line that says what is."""


@dataclass(frozen=True)
class AllowedReferences:
    """Where the files lie that rows may name.

    Attributes:
        prefixes: absolute folders ("/data/set/"), or beginnings of URLs that end in "/" ("s3://bucket/faces/"; "https://"
            for every public host). A chained URL of fsspec ("simplecache::s3://...") is reached by a prefix that holds
            the chain, and in no other way.
    """

    prefixes: tuple[str, ...]

    @classmethod
    def of_manifest(
        cls, manifest_url: str, named: Sequence[str] | None = None, earlier: Sequence[str] = ()
    ) -> AllowedReferences:
        """What the rows of a manifest may name.

        Args:
            manifest_url: absolute path or URL.
            named: folders the user allows instead of the default; relative ones start at the manifest's folder, "." is
                that folder. None: the manifest's own folder on a disk, its own bucket or host elsewhere.
            earlier: prefixes that earlier runs into the same output had, so that their dead letters can be fed back.
                They count beside the default, not beside `named`.

        Raises:
            ValueError: `named` holds what is no folder.
        """
        if named is not None:
            return cls(tuple(dict.fromkeys(as_prefix(folder, folder_of(manifest_url)) for folder in named)))
        return cls(tuple(dict.fromkeys([_own_prefix(manifest_url), *earlier])))

    def resolve(self, reference: str, base_folder_url: str) -> str:
        """Where a reference written in a manifest points to, as `actors.storage.resolve` has it, if that is allowed.

        Raises:
            ReferenceRefused: it is not.
        """
        _require_short_and_plain(reference)
        try:
            url = canonical(resolve(reference, base_folder_url))
        except ValueError as error:
            raise ReferenceRefused(redact(str(error))) from error
        if (reason := self.refusal(url)) is not None:
            raise ReferenceRefused(reason)
        return url

    def refusal(self, url: str) -> str | None:
        """Why an absolute path or URL may not be read, or None."""
        try:
            url = canonical(url)
            address = _written_address(urlsplit(url).hostname or "") if _is_web(url) else None
        except ReferenceRefused as error:
            return str(error)
        if not any(_is_below(url, prefix) for prefix in self.prefixes):
            return f"must lie under {self._shown()} (setting allowed_references)"
        return None if address is None else self.address_refusal(address)

    def address_refusal(self, address: str) -> str | None:
        """Why no connection may be made to an address, or None.

        An address that is not public (this machine, its network, the cloud's metadata service) is reached only where a
        prefix names it by number: a host's name says nothing of where it leads.

        Args:
            address: IPv4 or IPv6, as a number.
        """
        ip = _innermost(ipaddress.ip_address(address.partition("%")[0]))
        is_public = ip.is_global and not ip.is_multicast
        if is_public or any(_named_address(prefix) == str(ip) for prefix in self.prefixes):
            return None
        return f"leads to {ip}, which is no public address (setting allowed_references could name it)"

    def _shown(self) -> str:
        shown = [redact(prefix) for prefix in self.prefixes[:_SHOWN_PREFIXES]]
        if more := len(self.prefixes) - len(shown):
            shown.append(f"{more} more")
        return f"one of {', '.join(shown)}" if len(shown) > 1 else "".join(shown) or "no folder at all"


def folder_of(manifest_url: str) -> str:
    """The folder relative references start at; without the password that a manifest may be read with."""
    scheme, separator, path = manifest_url.rpartition("://")
    if not separator:
        return manifest_url.rpartition("/")[0] or ("/" if manifest_url.startswith("/") else ".")
    host, slash, path = path.partition("?")[0].rpartition("/")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def as_prefix(folder: str, base_folder_url: str = ".") -> str:
    """A folder as a user names it, as a prefix.

    Raises:
        ValueError: it is none, or one with a password in it.
    """
    if not folder.strip() or "*" in folder:
        raise ValueError(f"must be a folder or the beginning of a URL, without '*', got {redact(folder)!r}")
    scheme, separator, rest = folder.partition("://")
    if separator and not rest and scheme not in _LOCAL_SCHEMES and _SCHEME.fullmatch(scheme):
        return folder
    folder = os.path.expanduser(folder) if folder.startswith("~") else folder
    try:
        return canonical(resolve(folder, base_folder_url)).rstrip("/") + "/"
    except ReferenceRefused as error:
        raise ValueError(f"{error}, got {redact(folder)!r}") from error


def canonical(url: str) -> str:
    """The one way to write an absolute path or URL; a path on a disk is written without a scheme.

    Raises:
        ReferenceRefused: it holds what could mean something else to a server than to us.
    """
    _require_short_and_plain(url)
    scheme, separator, rest = url.partition("://")
    if "::" in url and not _is_web(url):
        return _without_steps(url)
    if not separator or scheme in _LOCAL_SCHEMES:
        path = rest if separator else url
        if not path.startswith("/"):
            raise ReferenceRefused("must be a URL, or a path from '/' or the manifest's folder; '~' is not known")
        return "/" + os.path.normpath(path).lstrip("/")
    if not _SCHEME.fullmatch(scheme):
        raise ReferenceRefused("must begin with the name of a store in lower case before '://'")
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in host:
        raise ReferenceRefused("must not hold a user name or a password")
    if not host:
        raise ReferenceRefused("must name a bucket or host")
    return _canonical_web(_without_steps(url)) if _is_web(url) else _without_steps(url)


def _own_prefix(manifest_url: str) -> str:
    """A manifest's folder on a disk, its bucket or host elsewhere."""
    folder = folder_of(manifest_url)
    scheme, separator, path = folder.rpartition("://")
    # An access point's name goes on behind the slash: there, too, it is the folder.
    if not separator or scheme in _LOCAL_SCHEMES or path.startswith("arn:"):
        return as_prefix(folder)
    return as_prefix(f"{scheme}://{path.partition('/')[0]}")


def _require_short_and_plain(reference: str) -> None:
    if len(reference) > MAX_REFERENCE_CHARACTERS:
        raise ReferenceRefused(f"must be at most {MAX_REFERENCE_CHARACTERS:,} characters long, got {len(reference):,}")
    try:
        require_plain(reference)
    except ValueError as error:
        raise ReferenceRefused(str(error)) from error


def _is_web(url: str) -> bool:
    return url.partition("://")[0] in _WEB_PORTS


def _is_below(url: str, prefix: str) -> bool:
    return url.startswith(prefix) and (_is_web(url) or "::" not in url.removeprefix(prefix))


def _without_steps(url: str) -> str:
    """The same, if no server could take a part of its path for a step up, however it is encoded."""
    path = url
    while (decoded := unquote(path)) != path:
        path = decoded
    parts = path.partition("?")[0].replace("\\", "/").split("/")
    if ".." in parts or "." in parts:
        raise ReferenceRefused("must not hold '.' or '..' between slashes")
    return url


def _canonical_web(url: str) -> str:
    """Host in lower case, no port that goes without saying, no fragment, all in ASCII."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ReferenceRefused(f"must be a URL: {error}") from error
    if "\\" in url or not re.fullmatch("[a-z0-9._-]+|[0-9a-f:.]+", host):
        raise ReferenceRefused("must name its host in ASCII letters, digits, dots and hyphens, without backslashes")
    _written_address(host)
    shown = f"[{host}]" if ":" in host else host
    shown += "" if port in (None, _WEB_PORTS[parts.scheme]) else f":{port}"
    query = f"?{quote(parts.query, safe=_QUOTED_ALREADY)}" if parts.query else ""
    return f"{parts.scheme}://{shown}{quote(parts.path, safe=_QUOTED_ALREADY) or '/'}{query}"


def _written_address(host: str) -> str | None:
    """The address a host is written as, or None for a name.

    Raises:
        ReferenceRefused: one in another form than four decimal numbers, which some programs read and others do not.
    """
    with suppress(ValueError):
        return str(ipaddress.ip_address(host))
    with suppress(OSError):
        socket.inet_aton(host)
        raise ReferenceRefused("must write an address as four decimal numbers")
    return None


def _named_address(prefix: str) -> str | None:
    """The address a prefix names by number, or None."""
    with suppress(ValueError):
        return str(_innermost(ipaddress.ip_address(urlsplit(prefix).hostname or ""))) if _is_web(prefix) else None
    return None


def _innermost(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address inside an IPv6 one, where the network hands on to it."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else ip)
