"""Sealed text, which a client carries for the gateway without reading it. AES-GCM with a key for one purpose; the owner
is bound in. Beside it, pseudonyms: names that no other party can derive.

A seal is `antiphon.1.` and the key's id, then nonce and ciphertext in base64. The prefix distinguishes our seals from
other opaque items.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.errors import InvalidRequest

PREFIX = "antiphon.1."
_NONCE = 12
_KEY_ID = 8
_PSEUDONYM = 32


class Seal:
    """Seals with the first key and opens with any: after a rotation the old keys still open."""

    def __init__(self, purpose: str, keys: Sequence[bytes]) -> None:
        self._purpose = purpose
        self._keys = {_key_id(key): AESGCM(key) for key in keys}
        self._current = _key_id(keys[0])

    def close(self, owner: str, content: bytes) -> str:
        """The content as text that only `open` with the same owner can read."""
        nonce = os.urandom(_NONCE)
        sealed = self._keys[self._current].encrypt(nonce, content, self._bound(owner))
        return f"{PREFIX}{self._current}.{base64.urlsafe_b64encode(nonce + sealed).decode()}"

    def open(self, owner: str, text: str) -> bytes:
        """Raises InvalidRequest for text that is altered, cut, another owner's, or sealed with an unknown key."""
        key_id, _, sealed = text.removeprefix(PREFIX).partition(".")
        key = self._keys.get(key_id)
        if key is None or not text.startswith(PREFIX):
            raise _invalid()
        try:
            raw = base64.b64decode(sealed, altchars=b"-_", validate=True)
            if base64.urlsafe_b64encode(raw).decode() != sealed:
                # The last character has unused bits, which could be changed unnoticed.
                raise _invalid()
            return key.decrypt(raw[:_NONCE], raw[_NONCE:], self._bound(owner))
        except (InvalidTag, ValueError, binascii.Error):
            raise _invalid() from None

    def _bound(self, owner: str) -> bytes:
        return f"{PREFIX}{self._purpose}\0{owner}".encode()


@dataclass(frozen=True, slots=True)
class Seals:
    """The seals of everything that clients carry."""

    compaction: Seal
    reasoning: Seal


class Pseudonyms:
    """Short names for what upstreams may tell apart and not recognise: an HMAC over the owner and the name itself. They
    are the same in every process with the same secret key, and only that key leads from a name to its pseudonym.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, owner: str, name: str) -> str:
        """32 hex digits."""
        return hmac.digest(self._key, f"{owner}\0{name}".encode(errors="surrogatepass"), "sha256").hex()[:_PSEUDONYM]


class OwnerDigests:
    """Digests of what owners said. Each owner has a key of their own, so that the database alone neither confirms a
    guessed text nor shows that two owners said the same."""

    SIZE = 8

    def __init__(self, key: bytes) -> None:
        self._key = key[: hashlib.blake2b.MAX_KEY_SIZE]
        self.name = hashlib.sha256(key).digest()[:2]
        """Tells digests of different keys apart."""

    def of(self, owner: str) -> Callable[[bytes], bytes]:
        """The function that digests content of this owner."""
        key = hashlib.blake2b(owner.encode(), digest_size=32, key=self._key).digest()
        return lambda content: hashlib.blake2b(content, digest_size=8, key=key).digest()


def is_sealed(text: object) -> bool:
    return isinstance(text, str) and text.startswith(PREFIX)


def _key_id(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:_KEY_ID]


def _invalid() -> InvalidRequest:
    return InvalidRequest(
        "The encrypted content of an item could not be verified: it was altered, or was not made for this owner.",
        code="invalid_encrypted_content",
        param="input",
    )
