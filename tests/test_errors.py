"""The tree of exceptions."""

from __future__ import annotations

from s2connect import errors
from s2connect.errors import PeerBusy, S2ConnectError


def test_the_kind_of_an_error_comes_from_the_name_of_its_class_unless_it_names_one() -> None:
    class FuseBlownError(S2ConnectError):
        pass

    class Tripped(S2ConnectError):
        kind = "fuse_tripped"

    assert (PeerBusy.kind, FuseBlownError.kind, Tripped.kind) == ("peer_busy", "fuse_blown", "fuse_tripped")


def test_each_kind_is_that_of_one_error() -> None:
    kinds = [vars(errors)[name].kind for name in errors.__all__]
    assert len(set(kinds)) == len(kinds)
