"""Explanations of errors, refusals and warnings: what each code means, and what helps.

The code of an error is its ``kind``; that of a refusal is the reason which the standard has for it.
``s2connect explain`` prints them, and the site has them as a page.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from s2connect.messages.rules import RULES
from s2connect.messages.rules.base import Severity

MAX_CODE_CHARACTERS: Final = 80
"""Longest code that is looked up."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Explanation of one code.

    Attributes:
        code: The ``kind`` of an error, the ``reason`` of a warning, or a reason of the standard.
        meaning: What has happened.
        cures: What helps, the likeliest first; each is a sentence or two.
    """

    code: str
    meaning: str
    cures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Explanations that belong together.

    Attributes:
        title: Heading for people.
        about: Where these codes are met.
        explanations: In the order in which they are shown.
    """

    title: str
    about: str
    explanations: tuple[Explanation, ...]


def _group(title: str, about: str, rows: dict[str, tuple[str, ...]]) -> Group:
    return Group(title, about, tuple(Explanation(code, row[0], row[1:]) for code, row in rows.items()))


_NETWORK: Final = _group(
    "The other side is not reached",
    "Nothing was changed on either side, and it may work later. Exit code 3.",
    {
        "network": (
            "The other side could not be reached.",
            "Run `s2connect doctor`: it says whether this machine, the network or the other side is the cause.",
        ),
        "not_reachable": (
            "No connection came about: the name of the other side is not known, nothing listens at its port, or there "
            "is no way to it.",
            "Check that the other device is on, and in the same network: a guest network is another one.",
            "Check the URL: `s2connect discover` shows those that are found.",
            "A name that ends with .local needs multicast; `--connect-to ADDRESS` does without it.",
            "A firewall has to let TCP 8443 in, and UDP 5353 for discovery.",
        ),
        "peer_timeout": (
            "The other side took the connection, and did not answer in time.",
            "Try again; if it stays so, restart the other device.",
            "On a slow line, move closer to the access point or use a cable.",
        ),
        "peer_busy": (
            "The other side answered that it has too much to do, or that it failed (HTTP 429 or 5xx).",
            "Wait for a minute and try again. A service tries again by itself.",
            "If it stays so, the log of the other side has the cause.",
        ),
    },
)

_TRUST: Final = _group(
    "The certificate of the other side",
    "The connection was ended before anything secret was sent. Exit code 4.",
    {
        "trust": (
            "The certificate of the other side is not what it has to be.",
            "Run `s2connect doctor`: it names the certificate and what is wrong with it.",
        ),
        "certificate_refused": (
            "The certificate is expired, of another name, of an unknown authority, badly signed or weak.",
            "Check the clocks of both machines: a wrong date makes a good certificate look expired.",
            "Use the name in the URL for which the certificate was made, not an address.",
            "A private authority is trusted with `trust_anchors` (`s2connect config set trust-anchors FILE`).",
            "If the other side has a new certificate authority, the two have to be paired again.",
        ),
        "certificate_changed": (
            "The server showed another certificate in the middle of one pairing.",
            "Try again. If it happens once more, somebody may be between the two devices: connect them by a cable.",
        ),
        "not_public": (
            "This endpoint runs on the internet, and the address is not of the internet. It connects to no private "
            "network, because strangers choose its addresses.",
            "A device in a local network is paired with the URL that its vendor runs on the internet.",
            "Where all of this is one private network, set `allow_private_addresses`.",
        ),
    },
)

_PAIRING: Final = _group(
    "Pairing did not come about",
    "The pairings that there were still stand, unless it says otherwise. Exit code 5.",
    {
        "pairing": (
            "The two were not paired.",
            "Read the sentence above it, get a new code at the other side, and try again.",
        ),
        "wrong_pairing_code": (
            "The two sides do not have the same code, or somebody is between them.",
            "Read the code at the other side again, and type it as it is there.",
            "Get a new one: codes of a screen are valid for a few minutes, and after five wrong attempts not at all.",
        ),
        "pairing_refused": (
            "The other side refused; the reason is named beside it.",
            "`s2connect explain REASON` explains the reason.",
        ),
        "pairing_expired": (
            "The pairing was not finished within the 15 seconds that the standard allows, or nobody came while the "
            "code was valid.",
            "Try again. If it happens again, the line between the devices is too slow.",
        ),
        "pairing_replaced": (
            "A newer pairing of the same node, or its user, ended this one before it was finished.",
            "`s2connect pairings` shows what is paired now.",
        ),
        "pairing_unconfirmed": (
            "The last answer was lost, so the other side may have stored the pairing or not.",
            "Wait for a minute: the next session decides, and `s2connect pairings` shows how.",
            "If no session comes about, pair again with a new code.",
        ),
    },
)

_SESSION: Final = _group(
    "Sessions",
    "The two are not paired, or a session did not come about or has ended. Exit code 6.",
    {
        "session": (
            "A session did not come about, or has ended.",
            "`s2connect status` shows the state of every session, and when the next attempt is.",
        ),
        "not_paired": (
            "There is no pairing with this peer here.",
            "`s2connect pairings` shows what is paired; `s2connect pair` pairs.",
        ),
        "no_longer_paired": (
            "The other side has removed the pairing.",
            "Pair the two again, if they shall work together.",
        ),
        "access_refused": (
            "The other side does not know the token of this pairing (HTTP 401): it has no such pairing any more, or "
            "one of the two runs with an older copy of its state.",
            "If a backup was restored on either side, go back to the newest state: tokens change with every session.",
            "Otherwise pair the two again.",
        ),
        "session_refused": (
            "The other side opens no session now; the reason is named beside it.",
            "`s2connect explain REASON` explains the reason. A service tries again by itself.",
        ),
        "connection_closed": (
            "The connection has ended, or there is no session of that name.",
            "A service connects again by itself; `s2connect status` shows when.",
        ),
        "message_refused": (
            "The other side answered a message with another status than OK.",
            "The label says what is wrong with the message; `s2connect validate FILE` checks one before it is sent.",
        ),
        "acknowledgement_timeout": (
            "The other side did not acknowledge a message in time. The session goes on.",
            "Send it again if it still counts. If it stays so, the other side is too slow or hangs: see its log.",
        ),
    },
)

_PEER: Final = _group(
    "The protocol",
    "The other side breaks the standard, or speaks another version of it. Exit code 1.",
    {
        "peer": (
            "The other side does not do what the standard says.",
            "Look for an update of its software.",
        ),
        "protocol_violation": (
            "An answer of the other side breaks the standard.",
            "Check that the URL is that of S2 Connect: it ends with /pairing/.",
            "Look for an update of the other device; `--verbose` shows what it sent, for its maker.",
        ),
        "incompatible_api_version": (
            "The two sides have no version of S2 Connect in common.",
            "Update the older one.",
        ),
    },
)

_USAGE: Final = _group(
    "What was typed, and files that were given",
    "Nothing was changed. Exit code 2.",
    {
        "usage": (
            "The command cannot be used like this.",
            "The command with `--help` shows how.",
        ),
        "invalid_url": (
            "A URL is not one of S2 Connect.",
            "It looks like https://name.local:8443/pairing/, without a version at its end.",
        ),
        "invalid_pairing_code": (
            "What was typed is no pairing code.",
            "A code has at least four letters or digits, with an optional name and a dash before it.",
        ),
        "configuration": (
            "A setting cannot be used; the message names it.",
            "`s2connect config show` lists the settings, `config set` and `unset` change them. The reference has every "
            "value.",
        ),
        "name_conflict": (
            "Another device in the network has the name of this one.",
            "Give one of them another name: `s2connect config set host NAME`. Until then the one that started second "
            "is reached by its URL, and not found by others; it asks for the name again every minute.",
        ),
        "bridge_file": (
            "The file of a bridge has mistakes.",
            "`s2connect bridge check FILE` names each with its line.",
        ),
        "unreadable": (
            "A file cannot be read, or is too large.",
            "Check its name and who may read it.",
        ),
        "no_messages": (
            "A file was read, and there are no S2 messages in it.",
            "It may hold messages as JSON, one or many, or a log with such messages in it.",
        ),
        "line_too_long": (
            "A command for the sidecar is longer than 320 KiB. It was skipped.",
            "Write one JSON object a line.",
        ),
        "malformed_command": (
            "A line for the sidecar is no JSON object.",
            "Write one JSON object a line, without line breaks in it.",
        ),
        "unknown_command": (
            "The sidecar does not know a command.",
            "The page about the command has all of them.",
        ),
    },
)

_STORAGE: Final = _group(
    "State on this machine",
    "Exit code 7, but 8 where another process has the home.",
    {
        "storage": (
            "The state on this machine cannot be read or written.",
            "`s2connect doctor` says what is wrong with it.",
        ),
        "storage_unavailable": (
            "Reading or writing failed; nothing was half done.",
            "Check free space, and whether the disk has become read-only: `df -h`, `dmesg`.",
            "Check that the user of the service owns the home.",
        ),
        "pairings_lost": (
            "The database of pairings is empty or missing, although there were pairings.",
            "Put the newest backup back, if nothing was connected since then.",
            "Otherwise `s2connect unpair --all` begins anew, and every device has to be paired again.",
        ),
        "insecure_permissions": (
            "Others can read a file with secrets.",
            "`chmod 600 FILE`, or `chmod 700 DIRECTORY`, as its owner.",
            "If others were on this machine meanwhile, pair again: they may have read it.",
        ),
        "home_in_use": (
            "Another process works with this home; there can be one at a time.",
            "Stop the other one. Two services have two homes: `--home DIR`.",
        ),
        "instance_runs": (
            "Several instances share one database, each with a name of its own. Another process has this one's name.",
            "Stop the other one, or give this one another name: `--instance NAME`, or the setting `instance`.",
            "Who runs, and where: `s2connect cluster status`. After a crash a name is free at once, or in 15 seconds.",
        ),
        "home_moved": (
            "`s2connect move` sealed this home: the endpoint goes on where its file was restored.",
            "Use it there. A new endpoint on this machine has another home: `--home DIR`.",
            "If the file is lost and was restored nowhere: `s2connect move --undo`.",
        ),
        "backup_refused": (
            "The file of a backup cannot be used; nothing was changed. The sentence says whether it is no backup, of a "
            "later version, damaged, or of another passphrase.",
            "A wrong passphrase: mind capitals and the keyboard's language.",
            "A damaged file: take another copy of it, or an older backup.",
        ),
        "not_initialised": (
            "The home has not been set up.",
            "`s2connect setup` asks what this machine is, and sets it up; `s2connect init --role rm` asks nothing.",
            "If it is set up: was it by another user, or with another `--home`?",
        ),
    },
)

_COMMAND: Final = _group(
    "The command itself",
    "Exit code 1, but 8 where the service is missing, and 130 after Ctrl-C.",
    {
        "error": ("The service reported an error without a reason.", "Its log has the details."),
        "service_not_running": (
            "Only a running service can do this, and none runs with this home.",
            "Start it: `s2connect serve`, `s2connect bridge run FILE`, or `systemctl start` of its unit.",
            "If it runs: was it started by another user, or with another `--home`?",
        ),
        "worker_ended": (
            "A process of `serve --workers` ended by itself. It is started again, after a pause that grows.",
            "The message has the cause; where it says a signal, look into the log of the system: out of memory?",
        ),
        "stopping": ("The service stopped before it was done.", "Start the service, and run the command again."),
        "interrupted": ("It was stopped with Ctrl-C.",),
        "aborted": ("A question was not answered with yes; nothing was changed.", "`--yes` answers it."),
        "input_ended": (
            "The command needed an answer, and its input has ended.",
            "Run it in a terminal, or give the answers as options: `--help` shows them.",
        ),
        "terminated": ("It was stopped with SIGTERM.",),
        "unexpected": (
            "A mistake in this software.",
            "Run it again with `--verbose`, and report it with what that prints.",
        ),
        "no_broker": (
            "The demonstration found no MQTT broker on this machine.",
            "Install Mosquitto, or run `s2connect demo --embedded-broker`.",
        ),
        "broker_ended": (
            "The MQTT broker of the demonstration has ended.",
            "Its last lines are beside the error. Another program may use its port.",
        ),
        "program_ended": (
            "A program of the demonstration has ended.",
            "Its last lines are beside the error; run `s2connect demo` again with `--verbose`.",
        ),
        "demo_failed": ("A part of the demonstration did not come about.", "Run it again with `--verbose`."),
        "demo_timeout": (
            "A part of the demonstration took too long.",
            "On a slow or busy machine run it again, when there is less to do.",
        ),
    },
)

_REFUSED_PAIRING: Final = _group(
    "Reasons of the standard: a pairing is refused",
    "`reason` of `pairing_refused`. We send them to a peer as the standard has them, with a sentence for its user.",
    {
        "InvalidCombinationOfRoles": (
            "Two devices, or two energy managers: only a device and an energy manager can be paired.",
            "Check which of the two has the wrong role: `s2connect status` shows that of this side.",
        ),
        "IncompatibleS2MessageVersions": (
            "The two have no version of the S2 messages in common.",
            "Update the older one. A bridge translates between 0.0.2-beta and v1.0.0.",
            "`s2connect pair --force` pairs all the same, for the time after an update.",
        ),
        "IncompatibleHmacHashingAlgorithms": (
            "The two have no way in common to prove that they know the code.",
            "The standard has SHA256; look for an update of the side that lacks it.",
        ),
        "IncompatibleCommunicationProtocols": (
            "The two have no way in common for their messages, for example because one speaks MQTT only.",
            "Add `WebSocket` to `communication_protocols`: every implementation has it.",
        ),
        "NodeNotFound": (
            "The endpoint has no such node.",
            "Read the code again, with the name before its dash; or pick the device anew.",
        ),
        "NoNodeIdProvided": (
            "The endpoint has several nodes, and the code does not say which.",
            "Type the code with the name and the dash before it.",
        ),
        "NoValidPairingTokenOnPairingServer": (
            "The other side has no valid code now: it has expired, was used, or was withdrawn.",
            "Show a new one there (`s2connect code`), and type that.",
        ),
        "NoValidTokenOnPairingClient": (
            "The device that waits here to be paired has no valid code now.",
            "Show a new one at the device, and type that.",
        ),
        "ParsingError": (
            "The other side did not understand the request.",
            "Look for an update of both; `--verbose` shows what was sent.",
        ),
        "Other": (
            "Another reason; often the other side is not ready, or stops.",
            "Try again in a minute. What the other side adds for people is beside it.",
        ),
    },
)

_REFUSED_SESSION: Final = _group(
    "Reasons of the standard: a session is refused",
    "`reason` of `session_refused`; the others are those of pairing.",
    {
        "NoLongerPaired": (
            "The other side has removed the pairing.",
            "Pair the two again, if they shall work together.",
        ),
    },
)

_ENDS: Final = _group(
    "Ends of a session",
    "`reason` of the event `session_closed`.",
    {
        "closed_by_us": ("This side has closed it.",),
        "closed_by_peer": ("The other side has closed it.", "Where this side connects, it does so again by itself."),
        "lost": (
            "The connection broke, or nothing was heard from the other side for too long.",
            "If it happens often: `s2connect doctor`, and a look at the network.",
        ),
        "reconnect_requested": ("The other side asked for a new session, which follows.",),
        "terminate_requested": ("The other side ended it.", "It comes back when it wants to."),
        "permanent_error": (
            "The other side has refused a message for good (`PERMANENT_ERROR`).",
            "The label says what is wrong. The same message is not sent again for an hour.",
        ),
    },
)

_WARNINGS: Final = _group(
    "Warnings of a service",
    "`reason` of the event `warning`, and lines of its log. The service goes on. Errors above can be reasons, too.",
    {
        "copy_of_this_endpoint": (
            "Another machine in the network, or another process of this one, has the name and the keys of this "
            "endpoint: it has a copy of its home.",
            "Stop one of the two; `s2connect move` is how an endpoint goes to another machine.",
            "Where the wrong one had sessions meanwhile, the pairings of the other may have to be made again.",
        ),
        "broker_client_id": (
            "A second client seems to use the client id of this endpoint at the MQTT broker: the two end each other's "
            "connection.",
            "Look into the log of the broker: from where does the other one come? A copy of this home has to stop.",
            "Two endpoints: give each a `client_id` and an account of its own.",
        ),
        "broker_unused": (
            "An MQTT broker is configured, and no session can go over it: no node has MQTT among its protocols.",
            "`s2connect config set communication-protocols X-MQTT5-0,WebSocket`.",
            "In a bridge: `protocols` of a side of type `s2-connect`; `s2connect bridge check FILE` names the line.",
        ),
        "token_unknown": (
            "A peer that is paired came with a token that is not known here (it gets 401). Tokens change with every "
            "session, so one of the two runs with an older copy of its state, or a second copy of one runs somewhere.",
            "If a backup was restored on either side, go back to the newest state, and stop all copies of it.",
            "Otherwise pair the two again. A stranger who knows both ids can cause it, too; sessions go on then.",
        ),
        "pairing_attack": (
            "Somebody tried to pair without the code, by sending our own challenges back. It was refused.",
            "Find out who has the address in the message. Nothing else has to be done.",
        ),
        "code_attacked": (
            "Several attempts to pair with a static code have failed. The code still counts.",
            "If nobody has mistyped it, somebody tries codes: make a new one with `s2connect code --static`.",
        ),
        "no_valid_code": (
            "Somebody wanted to pair with a node of this endpoint that has no valid code: it was spent by a pairing, "
            "has expired, or was withdrawn.",
            "Make a new one, and type that: `s2connect code`.",
        ),
        "code_withdrawn": (
            "A pairing code was withdrawn, because it was wrong five times.",
            "Make a new one: `s2connect code`.",
        ),
        "code_missing_at_device": (
            "A device that waits here cannot be paired, because it has no valid code.",
            "Show a new one at the device.",
        ),
        "clock": (
            "The clock of this machine is probably wrong, so certificates cannot be checked well.",
            "Set it, or have it set: `timedatectl set-ntp true`.",
        ),
        "own_ca_in_wan": (
            "This endpoint is on the internet, and has no certificate of a public authority. Peers refuse it.",
            "Give it one (`certificate` and `private_key`), or have peers trust the `ca.pem` of its home.",
        ),
        "certificate_not_renewed": (
            "The own certificate could not be renewed.",
            "The message has the cause: often a full disk. It is tried again by itself.",
        ),
        "certificate_expires": (
            "The own certificate expires soon, and the service does not renew it: it is the operator's.",
            "Renew its files with the tool that made them, then `s2connect reload`. No pairing ends by that.",
        ),
        "store_lost": (
            "The database of this endpoint does not answer. Nothing new is taken, and open sessions go on for a while.",
            "Look at the database: `s2connect doctor`, `s2connect cluster status`. Once it is back, all goes on.",
        ),
        "store_unconfirmed": (
            "The database of this endpoint confirms nothing that is written. Nothing new is taken, and sessions go on.",
            "Start its synchronous standby again, or make another: `s2connect cluster status`.",
        ),
        "store_back": (
            "The database answers again, after `store_lost` or `store_unconfirmed`.",
            "Nothing needs to be done.",
        ),
        "instance_lost": (
            "Another process has become the instance of this name, while the database could not be reached from here.",
            "This one ends. Give each instance a name of its own: `S2CONNECT_INSTANCE`.",
        ),
        "instances_differ": (
            "Instances on one database name different hosts in their URLs, to which the proof in pairing is bound, or "
            "those of a bridge have different routes. The sentence says which.",
            "Give all of them the same `host`, that of the balancer (`s2connect cluster status`), and the same routes.",
        ),
        "not_advertised": (
            "This endpoint cannot be found in the network. Its URL still works.",
            "`s2connect doctor` says whether multicast works here.",
        ),
        "task_failed": (
            "A part of the service failed because of a mistake in it. It is started again, if it is needed.",
            "The log has the details: report them.",
        ),
        "recording_stopped": (
            "The file of `--record` cannot be written any more. The service goes on without.",
            "Make room, move the file away, and start the service again.",
        ),
        "not_writable": ("An event could not be written as JSON, and was left out.", "Report it."),
    },
)

GROUPS: Final = (
    _NETWORK,
    _TRUST,
    _PAIRING,
    _SESSION,
    _PEER,
    _USAGE,
    _STORAGE,
    _COMMAND,
    _REFUSED_PAIRING,
    _REFUSED_SESSION,
    _ENDS,
    _WARNINGS,
)
"""All explanations."""

PLAIN: Final = frozenset(
    {"usage", "interrupted", "aborted", "terminated", "unexpected", "error", "service_not_running"}
)
"""Kinds whose message says all that there is to say, so that it leads nowhere else."""


def explanations() -> Iterator[Explanation]:
    """Return all explanations, in the order of the groups."""
    for group in GROUPS:
        yield from group.explanations


def explain(code: str) -> Explanation | None:
    """Return the explanation of a code, or of a rule about messages, whatever its capitals; None if there is none."""
    wanted = code[:MAX_CODE_CHARACTERS].strip()
    if (rule := RULES.get(wanted.upper())) is not None:
        outcome = "is refused" if rule.severity is Severity.ERROR else "is taken, with a warning"
        meaning = f"Rule about messages ({rule.applies_to}): {rule.sentence} A message that breaks it {outcome}."
        return Explanation(rule.id, meaning, ("`s2connect validate FILE` says where in a message it is broken.",))
    wanted = wanted.lower().replace("-", "_")
    return next((each for each in explanations() if each.code.lower() == wanted), None)


def similar(code: str) -> list[str]:
    """Return the codes that may have been meant."""
    known = {each.code.lower(): each.code for each in explanations()}
    found = difflib.get_close_matches(code[:MAX_CODE_CHARACTERS].strip().lower().replace("-", "_"), known, 3, 0.5)
    return [known[name] for name in found]


def more_about(kind: str, reason: str = "") -> str:
    """Return the code that explains an error further: its reason, or its kind; empty where nothing does."""
    for code in (reason, kind):
        if code and code not in PLAIN and (explanation := explain(code)) is not None:
            return explanation.code
    return ""
