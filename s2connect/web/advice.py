"""Sentences of the facts: which side is missing, and what helps. Sans-I/O, without names of peers."""

from __future__ import annotations

from typing import Final

from s2connect.bridge.link_state import LinkState
from s2connect.bridge.sides import Initiator
from s2connect.model.common import Role
from s2connect.model.text import span
from s2connect.web.facts import PeerState

NAMES: Final = {Role.RM: "the device", Role.CEM: "the energy manager"}

_DOCTOR: Final = "Check this machine with: s2connect doctor"

_BY_KIND: Final = {
    "not_reachable": "Is the other side switched on, and in the network? " + _DOCTOR,
    "peer_timeout": "Is the other side switched on, and in the network? " + _DOCTOR,
    "peer_busy": "The other side asks for time. Nothing has to be done.",
    "session_refused": "The other side refuses for now; look there why.",
    "certificate_refused": "The other side has another certificate authority than when it was paired. If it was set up"
    " anew, unpair here and pair again.",
    "certificate_changed": "The certificate has changed under way. If that comes again, somebody may be in between.",
    "not_public": "The other side has no certificate of a public authority; its operator has to mend that.",
    "storage": "Look at the disk of this machine, and at the log.",
}
"""Cures for an attempt to connect that failed, by the kind of the error."""


def of_peer(state: PeerState, role: Role, error: str, sentence: str, silent_for: float | None) -> tuple[str, str]:
    """Return which side of a pairing is missing, and what helps.

    Args:
        state: State of the pairing.
        role: Role of the peer.
        error: Kind of the last error of our attempts to connect; empty for none.
        sentence: That error.
        silent_for: Seconds for which an open connection has been silent.
    """
    name = NAMES[role].capitalize()
    match state:
        case PeerState.CONNECTED | PeerState.ELSEWHERE:
            return "", ""
        case PeerState.SILENT:
            heard = f" for {span(silent_for)}" if silent_for is not None else ""
            return f"{name} was not heard{heard}; the connection is about to end.", "Is it on, and in the network?"
        case PeerState.REFUSED:
            return of_trouble(role, error, "s2connect unpair, then s2connect pair")
        case PeerState.WAITING:
            return (
                f"{name} is not connected. It has to connect to this side.",
                "Is it switched on, and does it reach this machine? " + _DOCTOR,
            )
        case PeerState.UNCONFIRMED:
            return (
                f"The last answer of {NAMES[role]} when it was paired was lost.",
                "The first session settles it. If none comes, pair again.",
            )
        case PeerState.IDLE:
            return "This side: no application takes sessions here.", "Start your program, or s2connect serve."
    if sentence:
        return f"{name} is not connected: {sentence}", _BY_KIND.get(error, "It is tried again by itself.")
    return f"{name} is not connected.", "This side connects to it by itself."


def of_trouble(role: Role, reason: str, pair: str) -> tuple[str, str]:
    """Return which access is lost, and what helps.

    Args:
        role: Role of the peer.
        reason: ``token_unknown`` if the peer came with a token that is not known here; otherwise it knows none of ours.
        pair: Command to pair again.
    """
    name = NAMES[role].capitalize()
    what = "comes with a token that is not known here" if reason == "token_unknown" else "accepts none of our tokens"
    return (
        f"{name} {what}: it has lost the pairing, one of the two is an older copy, or two copies of one run.",
        f"If this home was restored from a copy, put the newest one back. Otherwise pair again: {pair}",
    )


def of_link(
    state: LinkState, opens: dict[Role, Initiator | None], connected: set[Role], reason: str, file: str
) -> tuple[str, str]:
    """Return which side of a link is missing, and what helps.

    Args:
        state: State of the link.
        opens: Who opens the session of each side; None while it is not paired.
        connected: Sides that are connected.
        reason: Reason of the state.
        file: File of the bridge, for commands.
    """
    if state is LinkState.UP:
        return "", ""
    absent = [role for role in (Role.RM, Role.CEM) if role not in connected]
    unpaired = [role for role in absent if opens[role] is None]
    pair = f"s2connect bridge pair {file}"
    match state:
        case LinkState.UNPAIRED:
            return f"{_names(unpaired or absent)} {_are(unpaired)} not paired.", f"Pair it with: {pair}"
        case LinkState.REFUSED:
            return (
                f"A side has refused for good: {reason}",
                f"Pair again with: {pair}. If the home of this bridge is restored from a copy, put back the newest.",
            )
        case LinkState.ELSEWHERE:
            return f"It is not here: {reason}." if reason else "It is not here.", ""
        case LinkState.PARTING | LinkState.STOPPED:
            return f"The link ends: {reason}" if reason else "The link ends.", ""
        case LinkState.REACHING:
            ours = [role for role in absent if opens[role] is Initiator.BRIDGE]
            return f"The bridge connects to {_names(ours or absent).lower()}.", ""
    theirs = [role for role in absent if opens[role] is Initiator.PEER]
    if state is LinkState.ADMITTING:
        return f"{_names(theirs or absent)} {_have(theirs or absent)} to connect now.", ""
    why = f" Last attempt: {reason}" if reason else ""
    if theirs:
        return (
            f"{_names(theirs)} {_are(theirs)} not connected, and {_have(theirs)} to connect to the bridge.{why}",
            "Is it switched on, and does it reach this machine? " + _DOCTOR,
        )
    return f"{_names(absent)} {_are(absent)} not connected.{why}", "The bridge connects by itself. " + _DOCTOR


def of_certificate(left: float, *, late: bool, own_ca: bool) -> str:
    """Return what to do about a certificate that expires in so many seconds; empty for nothing.

    ``late`` is True from :func:`~s2connect.certs.authority.warned_from` on.
    """
    if left <= 0:
        mend = "s2connect certificate --renew" if own_ca else "Replace the file, then reload the service."
        return f"The certificate has expired; peers refuse it. {mend}"
    if not late:
        return ""
    if own_ca:  # it is renewed long before, by itself
        return f"The certificate expires in {span(left)} and was not renewed; see the log."
    return f"The certificate expires in {span(left)}. Replace the file, then reload."


def _names(roles: list[Role]) -> str:
    return " and ".join(NAMES[role] for role in roles).capitalize()


def _are(roles: list[Role]) -> str:
    return "are" if len(roles) > 1 else "is"


def _have(roles: list[Role]) -> str:
    return "have" if len(roles) > 1 else "has"
