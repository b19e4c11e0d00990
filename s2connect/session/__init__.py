"""Sessions: initiation and token rotation on both sides, reconnection, and the session itself.

Public are the session and the parts, without I/O, of which a gateway makes sessions of its own.
"""

from typing import TYPE_CHECKING

from s2connect._lazy import lazy_names

if TYPE_CHECKING:
    from s2connect.https.rate import TokenBucket
    from s2connect.model.log_limiter import LogLimiter
    from s2connect.session.acknowledgements import MAX_OUTSTANDING, Acknowledged, Acknowledgements
    from s2connect.session.answers import LATER, RefuseMessage
    from s2connect.session.budget import DEFAULT_LIMITS, PeerBudget, PeerLimits
    from s2connect.session.handlers import Handlers, instruction_status
    from s2connect.session.in_memory import memory_sessions
    from s2connect.session.latencies import Latencies
    from s2connect.session.observers import Direction, Observer
    from s2connect.session.ownership import Meeting
    from s2connect.session.server_core import LedTo
    from s2connect.session.session import Session, SessionEnd
    from s2connect.session.withholding import DeliveryGuard, Withholding
    from s2connect.session.work import begin_work, work_since
    from s2connect.transports.backoff import SHORT_SESSION, Backoff

__all__ = [
    "Direction",
    "Observer",
    "Session",
    "SessionEnd",
    "LATER",
    "RefuseMessage",
    "Handlers",
    "instruction_status",
    "memory_sessions",
    "MAX_OUTSTANDING",
    "Acknowledged",
    "Acknowledgements",
    "Latencies",
    "LedTo",
    "Meeting",
    "DEFAULT_LIMITS",
    "PeerBudget",
    "PeerLimits",
    "SHORT_SESSION",
    "Backoff",
    "LogLimiter",
    "TokenBucket",
    "begin_work",
    "work_since",
    "DeliveryGuard",
    "Withholding",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "s2connect.session.session": "Session SessionEnd",
        "s2connect.session.observers": "Direction Observer",
        "s2connect.session.ownership": "Meeting",
        "s2connect.session.server_core": "LedTo",
        "s2connect.session.answers": "LATER RefuseMessage",
        "s2connect.session.handlers": "Handlers instruction_status",
        "s2connect.session.in_memory": "memory_sessions",
        "s2connect.session.acknowledgements": "MAX_OUTSTANDING Acknowledged Acknowledgements",
        "s2connect.session.latencies": "Latencies",
        "s2connect.session.budget": "DEFAULT_LIMITS PeerBudget PeerLimits",
        "s2connect.session.withholding": "DeliveryGuard Withholding",
        "s2connect.session.work": "begin_work work_since",
        "s2connect.transports.backoff": "SHORT_SESSION Backoff",
        "s2connect.model.log_limiter": "LogLimiter",
        "s2connect.https.rate": "TokenBucket",
    },
)
