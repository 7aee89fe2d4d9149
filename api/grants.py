"""Grants: who may call. HS256 JWTs with ``sub`` and ``exp``, from the shared secret."""

import jwt
from perdure.replication.errors import Refusal

SECRET_BYTES_MIN = 32
# Clocks of issuers and regions may differ by so much.
LEEWAY_S = 30
_ALGORITHMS = ["HS256"]
_SCHEME = "bearer "
_GRANT_CHARS_MAX = 8_192


class Grants:
    """Checks grants against one secret of 32 bytes or more (``ValueError`` for a shorter one)."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < SECRET_BYTES_MIN:
            raise ValueError(f"the secret of grants must have at least {SECRET_BYTES_MIN} bytes")
        self._secret = secret

    def check(self, authorization: str | None) -> str:
        """The subject of the ``Authorization`` header, or ``Refusal`` ``unauthorized``."""
        if authorization is None or not authorization.lower().startswith(_SCHEME):
            raise Refusal("unauthorized", "send Authorization: Bearer <grant>")
        token = authorization[len(_SCHEME) :].strip()
        if len(token) > _GRANT_CHARS_MAX:
            raise Refusal("unauthorized", "the grant is too long")
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=_ALGORITHMS,
                leeway=LEEWAY_S,
                options={"require": ["sub", "exp"]},
            )
        except jwt.ExpiredSignatureError as error:
            raise Refusal("unauthorized", "the grant has expired") from error
        except jwt.PyJWTError as error:
            raise Refusal("unauthorized", "the grant is not valid") from error
        subject = str(claims["sub"])
        if not subject:
            raise Refusal("unauthorized", "the grant names nobody: sub is empty")
        return subject
