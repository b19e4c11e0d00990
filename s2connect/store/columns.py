"""Values that SQLite and PostgreSQL keep in the same form: tokens of a pairing, and the description of an endpoint."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence

from s2connect.model.common import EndpointDescription
from s2connect.model.secret import AccessToken
from s2connect.model.strict_json import read_json


def write_tokens(tokens: Sequence[AccessToken]) -> bytes:
    """Return tokens in the form in which a vault or sealed column keeps them."""
    return json.dumps([token.reveal() for token in tokens]).encode("ascii")


def read_tokens(content: bytes) -> list[AccessToken]:
    """Read what :func:`write_tokens` wrote; ValueError if it is something else."""
    try:
        texts = read_json(content)
        if isinstance(texts, list):
            return [AccessToken(text) for text in texts]
    except (TypeError, AttributeError):
        pass
    raise ValueError("no list of tokens")


@functools.lru_cache(maxsize=256)
def read_endpoint(data: bytes) -> EndpointDescription:
    """Read a description. Many pairings have the same."""
    return EndpointDescription.from_own_json(data)
