"""Who signs the certificates of regions."""

import ssl
from collections.abc import Mapping


def trusted(environment: Mapping[str, str]) -> ssl.SSLContext | bool:
    """Whom a client of HTTP believes: the authorities that ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``
    name, as everything on OpenSSL does, or the public ones. Raises ``OSError`` for a file that
    cannot be used."""
    file, directory = environment.get("SSL_CERT_FILE"), environment.get("SSL_CERT_DIR")
    if not file and not directory:
        return True
    return ssl.create_default_context(cafile=file or None, capath=directory or None)
