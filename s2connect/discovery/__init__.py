"""Discovery of endpoints in the local network with mDNS and DNS-SD, and by registry (DISC)."""

from typing import TYPE_CHECKING

from s2connect._lazy import lazy_names

if TYPE_CHECKING:
    from s2connect.discovery.advertise import Advertiser
    from s2connect.discovery.browse import Appeared, Browser, Changed, Vanished, find
    from s2connect.discovery.registry import RegistryClient
    from s2connect.discovery.registry_server import RegistryServer
    from s2connect.discovery.resolve import resolve
    from s2connect.discovery.txt import Advertisement, FoundEndpoint

__all__ = [
    "Appeared",
    "Browser",
    "Changed",
    "Vanished",
    "Advertisement",
    "FoundEndpoint",
    "Advertiser",
    "find",
    "resolve",
    "RegistryClient",
    "RegistryServer",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "s2connect.discovery.browse": "Appeared Browser Changed Vanished find",
        "s2connect.discovery.txt": "Advertisement FoundEndpoint",
        "s2connect.discovery.advertise": "Advertiser",
        "s2connect.discovery.resolve": "resolve",
        "s2connect.discovery.registry": "RegistryClient",
        "s2connect.discovery.registry_server": "RegistryServer",
    },
)
