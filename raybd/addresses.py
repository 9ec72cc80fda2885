"""Addresses of services: taken apart, and refused with a password in them, which comes from the environment alone."""

from urllib.parse import SplitResult, parse_qsl, urlsplit

from raybd.registry import BadInput

_SECRET = ("password", "passwd", "pwd", "secret", "token")


def without_password(address: str, *, where: str, instead: str) -> SplitResult:
    """Return the parts of `address`, which is written into cards and logs and so may hold no secret.

    Args:
        address: of a service, as a URL.
        where: the key that holds it.
        instead: where its secret comes from.

    Raises:
        BadInput: without repeating the secret, if there is one before the host or among the query's values; if it is
            no URL.
    """
    try:
        parts = urlsplit(address)
        _ = parts.port  # only asking for it says that it is no number
    except ValueError:
        # Not from the error, which quotes what stands where a port should: it can be half a password.
        raise BadInput(f"{where}: not readable as an address, SCHEME://HOST:PORT") from None
    secret = parts.password is not None or any(
        word in key.lower() for key, _ in parse_qsl(parts.query, keep_blank_values=True) for word in _SECRET
    )
    if secret:
        raise BadInput(f"{where}: expected an address without its password, which would be copied; use {instead}")
    return parts
