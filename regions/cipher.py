"""Encryption at rest: how the blobs of the database are stored, each bound to its place.

A stored blob: a byte for the form, 4 bytes that name the key, 8 that name a series, the nonce, and
what AES-256-GCM makes of the checksum and the content. Each start of a process, and each
``SERIES_BLOBS_MAX`` blobs, begin a series, with a key that is derived from the given one: random
nonces are safe for some 2^32 blobs of one key, and a region writes more.
"""

import hmac
from collections.abc import Sequence
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from perdure.regions.config import STORAGE_KEY_BYTES
from perdure.regions.ports import Entropy, StorageKeyWrong

# What a blob belongs to: its table, what names its row there, and the column where there are more.
Place = tuple[object, ...]

_FORM = b"\x01"
_ID_BYTES = 4
_SERIES_BYTES = 8
_NONCE_BYTES = 12
_CRC_BYTES = 4
_TAG_BYTES = 16
_ID_END = len(_FORM) + _ID_BYTES
_SERIES_END = _ID_END + _SERIES_BYTES
_HEAD_BYTES = _SERIES_END + _NONCE_BYTES
# How much of a blob names its key.
NAME_BYTES = _ID_END
# What a stored blob is longer than its content.
OVERHEAD_BYTES = _HEAD_BYTES + _CRC_BYTES + _TAG_BYTES
# That two of so many nonces are equal is as likely as 1 in 2^41.
SERIES_BLOBS_MAX = 2**28
# How many derived keys are kept at hand for reading; another takes 2 µs.
SERIES_KNOWN_MAX = 256
# No checksum is negative, so this one is nobody's.
NO_CRC = -1
_PROOF = b"perdure storage key proof"


class Clear:
    """Blobs and checksums as they are: a database that is not encrypted."""

    # The names of the keys, the first that which encrypts.
    keys: tuple[str, ...] = ()

    def put(self, place: Place, data: bytes, crc: int = 0) -> tuple[bytes, int]:
        """What is to be stored of a content and its checksum: a blob, and what stands in the column
        of the checksum."""
        return data, crc

    def get(self, place: Place, blob: bytes, crc: int = 0) -> tuple[bytes, int]:
        """The content and its checksum again. Where the blob is damaged, or of another place, the
        checksum is none that fits, and the content, where it can be told, is empty."""
        return blob, crc


class Cipher(Clear):
    """Blobs encrypted with the first of some keys; all of them decrypt. Several threads may use it,
    of which one calls :meth:`put`."""

    def __init__(self, keys: Sequence[bytes], entropy: Entropy) -> None:
        """Keys of ``STORAGE_KEY_BYTES`` bytes, at least one. Raises ``StorageKeyWrong`` when two
        cannot be told apart."""
        self._secrets = {_id_of(key): key for key in keys}
        if len(self._secrets) < len(keys):
            raise StorageKeyWrong("two of the storage keys are equal, or have one name; draw anew")
        self.keys = tuple(id_.hex() for id_ in self._secrets)
        self._entropy = entropy
        self._first = next(iter(self._secrets))
        self._known = lru_cache(SERIES_KNOWN_MAX)(self._derived)
        self._left = 0
        self._head = b""
        self._aead: AESGCM | None = None

    def put(self, place: Place, data: bytes, crc: int = 0) -> tuple[bytes, int]:
        """See :meth:`Clear.put`. The checksum is in the blob: beside it, it would tell what the
        content is to somebody who can guess."""
        aead = self._aead if self._left else None
        if aead is None:
            aead = self._begin()
        self._left -= 1
        nonce = self._entropy.token(_NONCE_BYTES * 8).to_bytes(_NONCE_BYTES, "big")
        content = (crc & 0xFFFFFFFF).to_bytes(_CRC_BYTES, "big") + data
        return self._head + nonce + aead.encrypt(nonce, content, _bound(place)), 0

    def _begin(self) -> AESGCM:
        series = self._entropy.token(_SERIES_BYTES * 8).to_bytes(_SERIES_BYTES, "big")
        self._head = _FORM + self._first + series
        self._left = SERIES_BLOBS_MAX
        aead = self._aead = self._known(self._head)
        assert aead is not None
        return aead

    def _derived(self, head: bytes) -> AESGCM | None:
        """For blobs that begin with this; None where the form or the key is not known."""
        secret = self._secrets.get(head[len(_FORM) : _ID_END])
        if secret is None or not head.startswith(_FORM):
            return None
        label = b"perdure storage series " + _FORM + head[_ID_END:]
        return AESGCM(hmac.digest(secret, label, "sha256"))

    def get(self, place: Place, blob: bytes, crc: int = 0) -> tuple[bytes, int]:
        """See :meth:`Clear.get`. Whatever the blob is, this does not raise."""
        if not isinstance(blob, bytes) or len(blob) < OVERHEAD_BYTES:
            return b"", NO_CRC
        aead = self._known(blob[:_SERIES_END])
        if aead is None:
            return b"", NO_CRC
        nonce = blob[_SERIES_END:_HEAD_BYTES]
        try:
            content = aead.decrypt(nonce, blob[_HEAD_BYTES:], _bound(place))
        except InvalidTag:
            return b"", NO_CRC
        return content[_CRC_BYTES:], int.from_bytes(content[:_CRC_BYTES], "big")

    def knows(self, head: bytes) -> bool:
        """Whether what a blob begins with, ``NAME_BYTES`` of it, names one of the keys."""
        return head.startswith(_FORM) and head[len(_FORM) : _ID_END].hex() in self.keys

    def is_first(self, blob: bytes) -> bool:
        """Whether a blob says that it is encrypted with the first key."""
        return blob.startswith(_FORM + self._first)

    def proof(self, key: str) -> str:
        """Something by which the key of this name is known again."""
        return hmac.digest(self._secrets[bytes.fromhex(key)], _PROOF, "sha256").hex()

    def proves(self, key: str, proof: str) -> bool:
        """Whether one of the keys has this name, and gives this proof."""
        return key in self.keys and hmac.compare_digest(proof, self.proof(key))


def _id_of(key: bytes) -> bytes:
    if len(key) != STORAGE_KEY_BYTES:
        raise StorageKeyWrong(f"a storage key has {STORAGE_KEY_BYTES} bytes, not {len(key)}")
    return hmac.digest(key, b"perdure storage key name", "sha256")[:_ID_BYTES]


def _bound(place: Place) -> bytes:
    return "/".join(map(str, place)).encode("utf-8", "surrogateescape")
