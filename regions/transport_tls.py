"""TLS on the links of a region: of files that may be replaced while it runs."""

import logging
import ssl
from collections.abc import Callable

from perdure.regions.certificates import Contexts, Stamp, load, stamp, warnings
from perdure.regions.config import ConfigError, PeerFiles
from perdure.regions.ports import Clock
from perdure.replication.limits import CERTIFICATES_LOOK_S

log = logging.getLogger("perdure.links")

Refused = Callable[[str], None]


def tls_reason(error: BaseException | None) -> str | None:
    """What TLS found wrong, where that is at the bottom of an error, in OpenSSL's words."""
    found = None
    while error is not None:
        if isinstance(error, ssl.SSLError):
            # aiohttp's own are such errors as well, and know no reason.
            words = (getattr(error, name, None) for name in ("verify_message", "reason"))
            found = next(filter(None, words), found or type(error).__name__)
        error = error.__cause__ or error.__context__
    return found


class PeerTls:
    """The TLS of a region's links.

    The files are looked at when a link is made, once in ``CERTIFICATES_LOOK_S`` at most; when they
    have changed, links are made with what is in them now. Files that do not do change nothing: they
    are told of in the log, and looked at again.
    """

    def __init__(self, files: PeerFiles, region: str, clock: Clock) -> None:
        """Raises ``ConfigError`` for files that do not do."""
        self._files = files
        self._region = region
        self._clock = clock
        self._looked_ms = clock.monotonic_ms()
        self._stamp: Stamp | None = None
        self._contexts = self._load()

    def dialing(self) -> ssl.SSLContext:
        """For a link that is about to be dialled."""
        return self._current().dialing

    def accepting(self, refused: Refused) -> ssl.SSLContext:
        """For the listener. It stays as it is, and each link is taken in with what is current;
        ``refused`` is told why a link came to nothing."""
        front = self._contexts.accepting

        class Handshake(ssl.SSLObject):
            def do_handshake(self) -> None:
                try:
                    super().do_handshake()
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    raise
                except ssl.SSLError as error:
                    refused(tls_reason(error) or "tls")
                    raise

        def begin(link: ssl.SSLObject, *_: object) -> None:
            link.context = self._current().accepting

        # Called for each link as it begins, whether the dialer names a host or not.
        front.sni_callback = begin
        front.sslobject_class = Handshake
        return front

    def _current(self) -> Contexts:
        now_ms = self._clock.monotonic_ms()
        if now_ms - self._looked_ms >= CERTIFICATES_LOOK_S * 1000:
            self._looked_ms = now_ms
            if self._stamp is None or stamp(self._files) != self._stamp:
                self._replace()
        return self._contexts

    def _replace(self) -> None:
        try:
            self._contexts = self._load()
        except ConfigError as error:
            self._stamp = None
            log.error("the certificates stay as they were: %s", error)
        else:
            log.warning("links are made with the certificates that are new in the files")

    def _load(self) -> Contexts:
        # Before they are read: what changes meanwhile is found to have changed.
        self._stamp = stamp(self._files)
        contexts = load(self._files, self._region)
        for warning in warnings(self._files, self._clock.wall_ms()):
            log.warning("%s", warning)
        return contexts
