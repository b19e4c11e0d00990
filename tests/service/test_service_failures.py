"""Failures of the command: exit codes, and objects for programs."""

from __future__ import annotations

from s2connect.errors import HomeInUse, PairingRefused, S2ConnectError
from s2connect.service.failures import _CODES, ExitCode, Failure, exit_code


def test_every_error_has_one_exit_code_whether_it_comes_from_here_or_from_the_service() -> None:
    assert exit_code(HomeInUse) is ExitCode.SERVICE
    assert exit_code(S2ConnectError) is ExitCode.FAILED
    for kind, code in _CODES:
        assert exit_code(kind) is code
        assert Failure.from_object({"kind": kind.kind, "what": "x"}).code is code
    refused = Failure.of(PairingRefused("No.", reason="Other", additional_info="busy"))
    again = Failure.from_object(refused.to_object())
    assert (again.code, again.details, again.what) == (5, {"reason": "Other", "additional_info": "busy"}, "No.")
    odd: object
    for odd in (None, [], {"kind": 3}, {"kind": "martian"}):
        assert Failure.from_object(odd).code == 1
