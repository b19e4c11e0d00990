"""Sentences and tables for people. Texts from the network are cleaned here; markup in them has no effect."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import zip_longest
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from s2connect.cli import codes
from s2connect.cli.terminal import PIPE, PlainText, clock, console, counted
from s2connect.endpoint.certificate import CertificateFacts, Certificates
from s2connect.model.common import NodeDescription, NodeId
from s2connect.model.text import for_display, until
from s2connect.service import events
from s2connect.service.commands import EndpointStatus, FullStatus, RemoteNodes, WorkerStatus
from s2connect.service.objects import ABSENT, EndedEntry, NodeEntry, OwnNode, PairingEntry, name_of
from s2connect.web.codes import CODES, OVER
from s2connect.web.facts import CodeState

MAX_TABLE_ROWS = 200  # beyond which rows are not wrapped
MAX_ENDED = 10  # pairings that have ended that are shown, the last ones
TABLE_WIDTH = 100  # columns of a terminal from which on a table of pairings can be read

ROLES = {"CEM": "energy manager", "RM": "device"}

_NO_CODE = "For a new code: s2connect code"

_FAILED_ATTEMPTS = {
    "wrong_code": "with a wrong code",
    "refused_by_client": "and broke off; why stands on its own screen (mostly another code was typed there)",
    "expired": "and did not finish in time",
    "out_of_order": "in a way that the standard does not allow",
    "malformed": "in a way that the standard does not allow",
    "unconfirmed": "and the pairing was never confirmed, so it is void",
    "not_stored": "in vain, because the pairing could not be stored here (see the log)",
    "replaced": "and another pairing was finished first, so this one is void",
}

_ENDS = {
    "closed_by_us": "closed here",
    "closed_by_peer": "closed by the other side",
    "lost": "the connection was lost",
    "reconnect_requested": "the other side asked to start anew",
    "terminate_requested": "the other side has ended it",
}

_UNPAIRED = {
    "us": "The pairing with {} has ended, as asked here.",
    "peer": "{} has ended the pairing.",
    "replaced": "The pairing with {} was replaced by the new one.",
}


def kind_of(peer: NodeDescription) -> str:
    """Return brand, model and role of a peer, fit for a terminal."""
    return f"{product(peer)}, {ROLES[peer.role]}"


def titled(peer: NodeDescription, more: str = "") -> str:
    """Return name, product and role of a peer, each once, fit for a terminal; ``more`` follows the role."""
    named = peer.user_defined_name and name_of(peer) != product(peer)
    kind = kind_of(peer) if named else ROLES[peer.role]
    return f"{name_of(peer)} ({kind}{more})"


def product(peer: NodeDescription) -> str:
    """Return brand and model, fit for a terminal."""
    brand, model = peer.brand, peer.model_name
    return for_display(brand if brand == model else f"{brand} {model}", 40)


def when(at: datetime | str) -> str:
    """Return a point in time in the time zone of this machine."""
    at = datetime.fromisoformat(at) if isinstance(at, str) else at
    return f"{at.astimezone():%Y-%m-%d %H:%M}"


REPEATED = timedelta(seconds=10)  # within it the same warning is shown once

_NO_SERVER = (
    "It has no server: it waits at the energy managers in the network, and each of them can pair it with the code of "
    "this device."
)

_ONLY_COUNTS = (
    "It takes sessions, and acknowledges and counts their messages, but acts on none: for that there are "
    "`serve --json` and the library."
)


class ServiceText:
    """Events of the service as text; with ``qr`` also its link as QR code, on a terminal that is wide enough.

    Attributes:
        page_url: URL of the page, where one runs that others in the network can reach: the link that a phone can use.
    """

    def __init__(self, *, qr: bool = False) -> None:
        self._tty = sys.stdout.isatty()
        self._width = shutil.get_terminal_size().columns if self._tty else 100
        self._qr = qr and self._tty
        self._pairing_url: str | None = None
        self._nodes: dict[NodeId, str] = {}
        self._warned: events.Warned | None = None
        self.page_url: str | None = None

    def __call__(self, event: events.Event) -> str | None:
        """Return an event as text; None for one that people need not know."""
        match event:
            case events.Ready():
                self._pairing_url = event.pairing_url
                self._note(event.nodes)
                return "\n".join(
                    [
                        "The service is running. Stop it with Ctrl-C.",
                        *(f"  {ROLES[n.role]} {n.alias or ''} {n.id}".rstrip() for n in event.nodes),
                        *(textwrap.wrap(_NO_SERVER, self._width) if self._pairing_url is None else []),
                        *self.page_lines(event.page),
                        *([f"  Metrics: {event.metrics}"] if event.metrics is not None else []),
                        *textwrap.wrap(_ONLY_COUNTS, self._width),
                    ]
                )
            case events.NodesChanged():
                self._note(event.nodes)
            case events.CodeIssued():
                return self._code(event)
            case events.PairingAnnounced():
                return self._asked(event)
        text = sentence(event)
        if text is None or self._is_repeated(event):
            return None
        line = f"{clock(event.time)}  {text}"
        if not self._tty:
            return line
        return textwrap.fill(  # URLs and paths are to be copied: never broken in two
            line, self._width, subsequent_indent=" " * 10, break_long_words=False, break_on_hyphens=False
        )

    def _is_repeated(self, event: events.Event) -> bool:
        """Return whether a warning has just been shown, e.g. because the next try came at once."""
        if not isinstance(event, events.Warned):
            return False
        before, self._warned = self._warned, event
        if before is None or (before.reason, before.peer, before.text) != (event.reason, event.peer, event.text):
            return False
        return event.time - before.time < REPEATED

    def page_lines(self, url: str | None) -> list[str]:
        """Return the lines about the page at the start, and note the URL where others than this machine reach it."""
        if url is None:
            return []
        lines = [f"  Page for browsers: {url}"]
        if url.startswith("https:"):
            self.page_url = url
            lines.append("  A link that lets a browser in: s2connect page link")
        return lines

    def _note(self, nodes: Sequence[NodeEntry]) -> None:
        """Note how nodes are told apart, where there are several."""
        several = {one.id: f"{ROLES[one.role]} {one.alias or str(one.id)[:8]}" for one in nodes}
        self._nodes = several if len(several) > 1 else {}

    def _code(self, event: events.CodeIssued) -> str:
        lines = codes.block(
            event.code,
            event.expires_at,
            self._pairing_url,
            page=self.page_url,
            grouped=self._tty,
            node=self._nodes.get(event.node, ""),
        )
        if self._qr and (url := self.page_url or self._pairing_url) is not None:
            lines = [*codes.qr_lines(url, self._width), *lines]
        return self._drawn(*lines)

    def _asked(self, event: events.PairingAnnounced) -> str:
        """Return the code that is about to be typed elsewhere."""
        who = titled(event.peer) if event.peer is not None else "An energy manager"
        code: str | Text = "  the code on the sticker of this device"
        if isinstance(event.code, str):
            expires = event.expires_at if isinstance(event.expires_at, datetime) else None
            code = codes.code_line(event.code, expires, grouped=self._tty)
        return self._drawn(Text(f"{who} wants to pair with this one. Type this code there:", style="bold"), code)

    def _drawn(self, *lines: str | Text) -> str:
        with (shown := console(width=self._width, force_terminal=self._tty, soft_wrap=True)).capture() as captured:
            shown.print("", *lines, sep="\n")
        return captured.get()


def sentence(event: events.Event) -> str | None:
    """Return an event as a sentence; None for one that people need not know."""
    match event:
        case events.Reloaded():
            return reload_sentence(event.result)
        case events.ReloadFailed():
            what = for_display(event.error["what"], 500)
            return f"The settings were not taken over; everything stays as it was: {what}"
        case events.NodesChanged(nodes=nodes):
            return f"Nodes here now: {', '.join(f'{n.alias or str(n.id)[:8]} ({ROLES[n.role]})' for n in nodes)}."
        case events.Paired():
            how = "It connects to us." if event.communication_role == "server" else "We connect to it."
            return f"Paired with {titled(event.peer)}. {how}"
        case events.AttemptFailed():
            how = _FAILED_ATTEMPTS.get(event.reason, "in vain")
            return f"{titled(event.peer)} tried to pair {how}."
        case events.PairingFailed():
            return "Pairing from here did not come about."
        case events.SessionOpened():
            return f"Session with {name_of(event.peer)} opened (S2 {for_display(event.s2_version, 20)})."
        case events.SessionClosed():
            end = _ENDS.get(event.reason, "ended")
            received = counted(event.messages, "message")
            return f"Session with {name_of(event.peer)} ended: {end}, after {received} from it."
        case events.AnnouncementCancelled():
            return "The pairing that was announced will not come."
        case events.DeviceWaiting():
            return f"{titled(event.peer)} waits here to be paired: s2connect pair"
        case events.DeviceGone():
            return f"{name_of(event.peer)} does not wait here any more."
        case events.Unpaired():
            return _UNPAIRED[event.by].format(name_of(event.peer))
        case events.Warned(reason="code_missing_at_device", peer=peer) if peer is not ABSENT:
            return f"{name_of(peer)} has no valid pairing code now; let it show a new one."
        case events.Warned(reason="code_withdrawn"):
            return f"Too many attempts with a wrong code: the code is withdrawn. {_NO_CODE}"
        case events.Warned(text=text, retry_in=retry):
            again = f" Next try {until(retry)}." if isinstance(retry, float | int) else ""
            return f"Warning: {for_display(event.reason if text is ABSENT else text, 400)}{again}"
    return None


def own_name(node: OwnNode) -> str:
    """Return name, product, role and alias of one of our nodes."""
    alias = f", alias {node.alias}" if node.alias else ""
    return titled(node, alias)


def short_name(node: OwnNode) -> str:
    """Return alias and name of one of our nodes."""
    return f"{node.alias} ({name_of(node)})" if node.alias else name_of(node)


def own_nodes_block(nodes: Sequence[OwnNode], counts: Mapping[str, int], width: int) -> RenderableType:
    """Return the nodes of this endpoint, and with how many others each is paired."""
    paired = {one.id: counts.get(str(one.id), 0) for one in nodes}
    rows = [
        (one.alias or "", name_of(one), product(one), ROLES[one.role], str(paired[one.id]), str(one.id))
        for one in nodes
    ]
    narrow = [f"{own_name(one)}\n  paired with {paired[one.id]}, id {one.id}" for one in nodes]
    return listing(("alias", "name", "brand, model", "role", "paired with", "id"), rows, narrow, width)


_FILES = {"certificate": "certificate", "trust_anchors": "trust anchors", "mqtt": "files of the MQTT broker"}


def reload_sentence(done: Mapping[str, Any]) -> str:
    """Return what a reload did, of a bridge or of an endpoint."""
    parts = [
        f"{', '.join(names)} {word}"
        for names, word in (
            (done.get("begun"), "begun"),
            (done.get("ended"), "ended"),
            ([f"{one['route']} ({one['devices']} devices)" for one in done.get("updated", ())], "updated"),
            (done.get("kept"), "untouched"),
            ([f"{one['route']} ({one['reason']})" for one in done.get("failed", ())], "FAILED"),
            ([f"node {one[:8]}" for one in done.get("described", ())], "described anew"),
            ([f"new {_FILES[one]}" for one in done.get("reread", ())], "in force"),
            ([f"new {_FILES[one['what']]} ({one['reason']})" for one in done.get("unread", ())], "NOT USED"),
        )
        if names
    ]
    if done["restart_needed"]:
        tables = "kept" in done
        named = "], [".join(done["restart_needed"]) if tables else ", ".join(done["restart_needed"])
        parts.append(f"a restart is needed for {f'[{named}]' if tables else named}")
    return for_display(f"Read the file again: {'; '.join(parts) or 'nothing to do'}.", 2000)


def pairings_block(
    pairings: Sequence[PairingEntry], width: int, nodes: Sequence[OwnNode] = (), *, total: int | None = None
) -> RenderableType:
    """Return pairings of an endpoint, which has so many in ``total``, as a table if there is room for it.

    It says our node where there are several.
    """
    if not pairings and total:
        return Text("There are no older pairings.")
    if not pairings:
        return Text(
            "No pairings yet. To pair, show a code with s2connect code, or type that of another: s2connect pair"
        )
    ours = {one.id: short_name(one) for one in nodes} if len(nodes) > 1 else {}
    columns = ("peer", "brand, model", "role", *(["our node"] if ours else []), "we are", "paired", "state", "id")
    rows, narrow = [], []
    for one in pairings:
        peer, role, since, short = one.peer, str(one.communication_role), when(one.since), str(one.peer.id)[:8]
        own = [ours.get(one.node, str(one.node)[:8])] if ours else []
        rows.append((name_of(peer), product(peer), peer.role, *own, role, since, _state(one), short))
        ways = [f"id {short}", f"we are communication {role}", *(f"with our node {it}" for it in own)]
        narrow.append(f"{titled(peer)}\n  {_state(one)}; paired {since}\n  {', '.join(ways)}")
    return listing(columns, rows, narrow, width)


def rest_blocks(shown: int, total: int | None) -> list[RenderableType]:
    """Return a sentence about the pairings that are not in a list; none where all are."""
    if total is None or total <= shown:
        return []
    what = f"Shown: {shown} of {total} pairings, the newest and those here that are connected or not accepted."
    return [Text(), Text(f"{what} For all: s2connect pairings --all")]


def troubles_blocks(pairings: Sequence[PairingEntry]) -> list[RenderableType]:
    """Return a sentence for each pairing whose access is not accepted, with when that was last seen."""
    found = [(one.trouble, name_of(one.peer)) for one in pairings if one.trouble is not None and not one.connected]
    shown = [Text(f"{name}, {when(one.since)}: {for_display(one.text, 500)}", "yellow") for one, name in found[:20]]
    if len(found) > len(shown):
        shown.append(Text(f"… and {len(found) - len(shown)} more like these", "yellow"))
    return [Text(), *shown] if shown else []


def ended_blocks(ended: Sequence[EndedEntry]) -> list[RenderableType]:
    """Return a sentence for each of the last pairings that have ended, and the next step."""
    shown: list[RenderableType] = [Text()] if ended else []
    for one in ended[:MAX_ENDED]:
        again = "If that was not meant, pair again" if one.by == "peer" else "To pair again"
        shown.append(Text(f"{name_of(one.peer)}, {when(one.since)}: {one.text} {again}: s2connect pair", "yellow"))
    return shown


def _state(one: PairingEntry) -> str:
    if not one.confirmed:
        return "unconfirmed"
    if one.trouble is not None and not one.connected:
        return "NOT ACCEPTED" if one.trouble.reason == "access_refused" else "UNKNOWN ACCESS"
    state = "connected" if one.connected else "not connected"
    return state if one.state_since is None else f"{state} since {when(one.state_since)}"


def status_blocks(status: FullStatus, width: int, start: str = "s2connect serve") -> list[RenderableType]:
    """Return the state of an endpoint, whose service is started by the command ``start``."""
    endpoint, service = status.endpoint, status.service
    facts = Facts()
    running = f"running, process {service.pid}" if service.running else f"not running; start it: {start}"
    facts.add("Service", running)
    for one in service.workers if service.workers is not ABSENT else ():
        facts.add("Worker", _worker_line(one))
    facts.add("Endpoint", f"{for_display(endpoint.name or endpoint.host)} ({endpoint.deployment})")
    if endpoint.pairing_url is None:
        facts.add("Server", "none: it waits at the energy managers in the network to be paired")
    else:
        facts.add("Pairing URL", endpoint.pairing_url)
        facts.add("Session URL", endpoint.session_url)
        facts.add("In network", _seen_as(endpoint))
    if endpoint.page is not None:
        facts.add("Page", endpoint.page)
    for node in status.nodes:
        facts.add("Node", own_name(node))
        facts.add("", str(node.id))
        if service.running and node.code_state in OVER:
            facts.add("", CODES[CodeState(node.code_state)])
    if leaf := endpoint.certificate.leaf:
        facts.add("Certificate", certificate_line(leaf, own_ca=endpoint.certificate.own_ca))
    else:
        own = endpoint.certificate.own_ca
        facts.add("Certificate", "is made when the service starts" if own else "that of the balancer")
    if (broker := endpoint.broker) is not None:
        told = "connected" if broker.connected else f"NOT CONNECTED{f': {broker.error}' if broker.error else ''}"
        facts.add("MQTT broker", f"{broker.where} as {for_display(broker.client_id, 80)}, {for_display(told, 400)}")
        for hint in filter(None, (broker.suspicion, broker.unused)):
            facts.add("", for_display(hint, 500))
    blocks: list[RenderableType] = [facts.block(width), Text(), pairings_block(status.pairings, width, status.nodes)]
    blocks += rest_blocks(len(status.pairings), status.pairings_total)
    blocks += troubles_blocks(status.pairings)
    blocks += ended_blocks(status.ended)
    if status.waiting:
        blocks += [Text(), waiting_block(status.waiting)]
    if status.sessions:
        rows = [(one.session, name_of(one.peer), when(one.since), str(one.messages)) for one in status.sessions]
        narrow = [
            f"session {name} with {peer}, since {since}, {counted(int(count), 'message')} from it"
            for name, peer, since, count in rows
        ]
        blocks += [Text(), listing(("session", "with", "since", "messages from it"), rows, narrow, width)]
    return blocks


def _worker_line(worker: WorkerStatus) -> str:
    """Return the state of a worker in a line."""
    state = f"process {worker.pid}" if worker.ready else "starts" if worker.pid is not None else "DOES NOT RUN"
    facts = [f"{for_display(worker.instance)}: {state}"]
    if worker.ready:
        facts.append("does not answer" if worker.sessions is None else counted(worker.sessions, "session"))
    if worker.restarts:
        facts.append(f"started again {counted(worker.restarts, 'time')}")
    return ", ".join([*facts, *([worker.metrics] if worker.metrics is not None else [])])


class Facts:
    """Facts with their names, one a line. A fact is never broken within a word, so that URLs and ids can be copied."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str]] = []

    def add(self, name: str, fact: str | None) -> None:
        """Add a fact; one without a name belongs to the fact before."""
        self._rows.append((name, fact or ""))

    def block(self, width: int) -> Text:
        """Return the lines; for an output that is no terminal without padding."""
        if width == PIPE:
            return Text("\n".join(f"{name}: {fact}" if name else f"  {fact}" for name, fact in self._rows))
        names = max(len(name) for name, _ in self._rows) + 2
        lines = []
        for name, fact in self._rows:
            wrapped = textwrap.wrap(fact, max(20, width - names), break_long_words=False, break_on_hyphens=False)
            lines += [f"{start:{names}}{line}" for start, line in zip_longest([name], wrapped or [""], fillvalue="")]
        return Text("\n".join(lines), overflow="ignore")


def _seen_as(endpoint: EndpointStatus) -> str:
    problem = endpoint.not_found
    if problem is not None:
        return f"NOT FOUND by others: {for_display(problem.text, 400)}"
    if endpoint.advertised is None:
        return "not advertised now; the pairing URL works"
    return f"advertised as {for_display(endpoint.advertised)}"


def nodes_blocks(remote: RemoteNodes, width: int) -> list[RenderableType]:
    """Return an endpoint and its nodes, as they present themselves."""
    head = Text(for_display(remote.endpoint.name or "An endpoint without a name"), style="bold")
    head.append(f" ({remote.endpoint.deployment})", style="not bold")
    if not remote.nodes:
        return [head, Text("It hosts nothing.")]
    rows, narrow = [], []
    for node in remote.nodes:
        kind = for_display(node.type, 40)
        rows.append((product(node), name_of(node), ROLES[node.role], kind, str(node.id)))
        narrow.append(node_title(node).append(f"\n  {kind}, id {node.id}", style="not bold"))
    return [head, listing(("brand, model", "name", "role", "type", "id"), rows, narrow, width)]


def node_title(node: NodeDescription) -> Text:
    """Return brand, model, name and role of a node of others."""
    title = Text(product(node), style="bold")
    if node.user_defined_name:
        title.append(f", {name_of(node)}")
    return title.append(f" ({ROLES[node.role]})", style="not bold")


def waiting_block(peers: Sequence[NodeDescription]) -> RenderableType:
    """Return the devices without a server that wait here."""
    lines = [f"  {titled(peer)}, id {str(peer.id)[:8]}" for peer in peers]
    return Text("\n".join(["Devices that wait here to be paired (s2connect pair):", *lines]))


def records_block(records: list[dict[str, Any]], width: int) -> RenderableType:
    """Return the endpoints of a registry."""
    if not records:
        return Text("The registry lists nothing that fits.")
    blocks = []
    for one in records:
        roles = ", ".join(ROLES[role] for role in ("CEM", "RM") if one[role.lower()]) or "nothing"
        lines = [f" ({roles}; {', '.join(one['regions'])})", for_display(one["pairing_url"], 300)]
        if one["description"]:
            lines.append(for_display(one["description"], 200))
        head = Text(for_display(one["name"], 50), style="bold")
        blocks.append(head.append("\n     ".join(lines), style="not bold"))
    return Text("\n").join(blocks)


def certificate_line(leaf: CertificateFacts, *, own_ca: bool) -> str:
    """Return until when a certificate is valid, with the next step where its operator has to renew it soon."""
    line = f"{'EXPIRED since' if leaf.expired else 'valid until'} {when(leaf.not_after)}"
    if not leaf.late:
        return line
    return f"{line}; {'it was not renewed, see the log' if own_ca else 'renew its files, then: s2connect reload'}"


def certificate_blocks(shown: Certificates, width: int) -> list[RenderableType]:
    """Return the certificates of an endpoint."""
    blocks: list[RenderableType] = []
    if not shown.own_ca:
        what = "The certificate is the operator's own; renew it with the tool that made it."
        blocks.append(Text(what if shown.leaf is not None else "The balancer has the certificate."))
    for facts, what in (
        (shown.ca, "Certificate authority of this endpoint"),
        (shown.leaf, "Certificate that peers see"),
    ):
        if facts is None:
            continue
        shown_facts = Facts()
        shown_facts.add("SHA-256", facts.fingerprint_sha256)
        shown_facts.add("From", when(facts.not_before))
        shown_facts.add("Until", when(facts.not_after) + (" (EXPIRED)" if facts.expired else ""))
        blocks += [Text(what, style="bold"), shown_facts.block(width)]
    return blocks


def listing(
    columns: Sequence[str], rows: Iterable[Sequence[str | Text]], narrow: Iterable[str | Text], width: int
) -> RenderableType:
    """Return rows as a table if there is room for it, otherwise the narrow form of each."""
    rows, narrow = list(rows), list(narrow)
    if len(rows) > MAX_TABLE_ROWS and not any(isinstance(one, Text) for one in narrow):
        return PlainText(_aligned([columns, *rows]) if width >= TABLE_WIDTH else "\n".join(map(str, narrow)))
    if width < TABLE_WIDTH:
        return Text("\n").join(Text(one) if isinstance(one, str) else one for one in narrow)
    return plain_table(columns, rows)


def _aligned(rows: Sequence[Sequence[str | Text]]) -> str:
    """Return rows as lines with columns of equal width."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*texts, strict=True)]
    return "\n".join("  ".join(map(set_cell_size, row, widths)).rstrip() for row in texts)


def plain_table(columns: Iterable[str], rows: Iterable[Iterable[str | Text]]) -> Table:
    """Return a table without lines, whose columns wrap."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == "id")
    for row in rows:
        table.add_row(*row)
    return table
