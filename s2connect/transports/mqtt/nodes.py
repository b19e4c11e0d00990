"""Order in which the nodes of a broker's cluster are tried, without I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from s2connect.model.text import for_display
from s2connect.model.url import MqttUrl


class Nodes:
    """Nodes of a cluster, in an order by chance, so that many clients spread over them; one for a single broker.

    Args:
        urls: The nodes, at least one.
        chance: Uniform in [0, 1).

    Attributes:
        current: The node of the connection, or of the attempt.
    """

    def __init__(self, urls: Sequence[MqttUrl], chance: Callable[[], float]) -> None:
        self._order = sorted(urls, key=lambda _: chance())
        self._tried = 0

    def __contains__(self, url: MqttUrl) -> bool:
        return any((url.host, url.port) == (one.host, one.port) for one in self._order)

    def __str__(self) -> str:
        return " or ".join(name_of(url) for url in sorted(self._order))

    @property
    def current(self) -> MqttUrl:
        return self._order[0]

    def established(self) -> None:
        """Note that the attempt succeeded."""
        self._tried = 0

    def failed(self) -> bool:
        """Go on to the next node. Returns whether it can be tried at once: not where all were tried in vain."""
        self._order.append(self._order.pop(0))
        self._tried = (self._tried + 1) % len(self._order)
        return self._tried > 0

    def lost(self) -> None:
        """Go on to another node than the one whose connection was lost; the first attempt waits as any."""
        self._order.append(self._order.pop(0))
        self._tried = 0


def name_of(url: MqttUrl) -> str:
    """Return host and port, for display."""
    return f"{for_display(url.host)}:{url.port}"
