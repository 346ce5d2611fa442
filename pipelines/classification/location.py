"""Where a folder is: a local path or a URI, as people write it, and the form of it that may be shown."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from core.errors import DataError, SettingsError

__all__ = ["Location", "parse_location", "refuse_recorded_secrets"]

_HIDDEN = "***"
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)")
_OPTION = r"[A-Za-z_][A-Za-z0-9_.-]*=[^&?]*"
_OPTIONS = re.compile(rf"{_OPTION}(?:&{_OPTION})*")
_OPEN_OPTIONS = frozenset(
    {
        "allow_bucket_creation",
        "allow_bucket_deletion",
        "allow_delayed_open",
        "background_writes",
        "check_directory_existence_before_creation",
        "default_bucket_location",
        "enable_tls",
        "endpoint_override",
        "force_virtual_addressing",
        "project_id",
        "region",
        "replication",
        "retry_limit_seconds",
        "scheme",
        "smart_defaults",
        "tls_ca_file_path",
        "tls_verify_certificates",
    }
)
"""Options whose values are no secret. Others are never shown, so that one that pyarrow adds cannot leak."""


@dataclass(frozen=True)
class Location:
    """A local path, or a URI such as ``s3://bucket/my slides?region=eu-central-1``.

    Names stand in it as people write them: a space is a space, ``#`` and ``%`` belong to the name. Only what follows
    the last ``?`` and looks like ``name=value&name=value`` is read as options.

    Attributes:
        shown: The location without secrets; this alone may be printed or stored.
        base: The same without options, to which relative names can be appended.
        uri: What pyarrow takes, percent-encoded and with secrets; empty for a local path.
        secrets: Texts that must not be shown.
    """

    shown: str
    base: str
    uri: str = field(default="", repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def scrub(self, text: str) -> str:
        """Return a text, such as a library's error message, without this location's secrets."""
        for secret in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(secret, _HIDDEN)
        return text

    def __str__(self) -> str:
        """Return the form that may be shown."""
        return self.shown


def parse_location(text: str) -> Location:
    """Read a path or URI as a person writes it.

    Raises:
        DataError: With code ``bad-location`` where it holds characters that cannot be stored or shown.

    Example:
        >>> parse_location("s3://KEY:SECRET@lab/my slides").shown
        's3://***@lab/my slides'
    """
    match = _URI.fullmatch(text)
    if match is None and "://" not in text:
        return Location(shown=text, base=text)
    if match is None or not text.isprintable():
        head = text.partition("://")[0]
        raise DataError("bad-location", f"The location that begins with {head!a} has characters that cannot be used.")
    scheme, rest = match[1].lower(), match[2]
    rest, options = _split_options(rest)
    credentials, place = _split_credentials(rest)
    authority, slash, path = place.rstrip("/").partition("/")
    base = f"{scheme}://{_HIDDEN + '@' if credentials else ''}{authority}{slash}{path}"
    signed = f"{quote(credentials, safe=':%')}@" if credentials else ""
    uri = f"{scheme}://{signed}{authority}{slash}{quote(path)}"
    shown = "&".join(_show_option(option) for option in options)
    return Location(
        shown=f"{base}?{shown}" if options else base,
        base=base,
        uri=f"{uri}?{quote('&'.join(options), safe='=&%:/,+@')}" if options else uri,
        secrets=tuple(_secrets(credentials, options)),
    )


def refuse_recorded_secrets(*locations: Location) -> None:
    """Refuse credentials in a URI, for a command line that a cluster records where others read it.

    Raises:
        SettingsError: With code ``secret-in-uri``.
    """
    for where in locations:
        if where.secrets:
            raise SettingsError(
                "secret-in-uri",
                f"{where} holds credentials, and the cluster's list of jobs shows the whole command line. Give them by"
                " the environment of the nodes (AWS_PROFILE, a role of the machine), and replace these: they are in"
                " the list now.",
            )


def _split_options(rest: str) -> tuple[str, list[str]]:
    """Split off the options at the end, if there are any."""
    head, mark, tail = rest.rpartition("?")
    return (head, tail.split("&")) if mark and _OPTIONS.fullmatch(tail) else (rest, [])


def _split_credentials(rest: str) -> tuple[str, str]:
    """Split off what stands before ``@``; a secret may hold a slash, which a bucket's name before it cannot."""
    authority, _, path = rest.partition("/")
    if "@" in authority:
        credentials, _, host = authority.rpartition("@")
        return credentials, host + rest[len(authority) :]
    if ":" in authority and not re.fullmatch(r"[^:]*:\d+", authority) and "@" in path:
        credentials, _, place = rest.partition("@")
        return credentials, place
    return "", rest


def _show_option(option: str) -> str:
    name, _, value = option.partition("=")
    return option if name in _OPEN_OPTIONS and "@" not in unquote(value) else f"{name}={_HIDDEN}"


def _secrets(credentials: str, options: list[str]) -> list[str]:
    """Return every spelling of a secret that a message could repeat."""
    found = [credentials, credentials.partition(":")[2]]
    found += [option.partition("=")[2] for option in options if _show_option(option) != option]
    spellings = [spelling for text in found for spelling in (text, unquote(text), quote(text, safe=":%"), quote(text))]
    return sorted({spelling for spelling in spellings if len(spelling) > 2})
