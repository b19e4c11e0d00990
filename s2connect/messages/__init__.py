"""S2 JSON: its messages as classes, reading and writing, validation, and translation between versions.

The classes are in one module per control type (``frbc``, ``ddbc``, ``ombc``, ``pebc``, ``ppbc``), those that all share
in ``general``. Their names are public, too.
"""

from typing import TYPE_CHECKING

from s2connect._lazy import lazy_names

if TYPE_CHECKING:
    from s2connect.messages import ddbc, frbc, general, ombc, pebc, ppbc
    from s2connect.messages.base import IdentifiedMessage, S2Message, S2Object, new_id
    from s2connect.messages.catalogue import BETA, V1, data_model, parse, parse_message
    from s2connect.messages.conversation import Conversation, ValidationResult
    from s2connect.messages.enums import Check
    from s2connect.messages.envelope import (
        HANDSHAKES,
        NIL_ID,
        RECEPTION_STATUS,
        SESSION_REQUEST,
        InvalidMessage,
        Message,
        ReceptionStatusValue,
        read_message,
        reception_status,
        write_message,
    )
    from s2connect.messages.rules.base import Finding
    from s2connect.messages.versions import SYSTEM_DESCRIPTION, Translation, Translator, Untranslatable
    from s2connect.model.common import DEFAULT_S2_VERSION, spelled_by_peer

__all__ = [
    "general",
    "frbc",
    "ddbc",
    "ombc",
    "pebc",
    "ppbc",
    "IdentifiedMessage",
    "S2Message",
    "S2Object",
    "new_id",
    "BETA",
    "V1",
    "data_model",
    "parse",
    "parse_message",
    "Check",
    "Conversation",
    "ValidationResult",
    "HANDSHAKES",
    "NIL_ID",
    "RECEPTION_STATUS",
    "SESSION_REQUEST",
    "InvalidMessage",
    "Message",
    "ReceptionStatusValue",
    "read_message",
    "reception_status",
    "write_message",
    "Finding",
    "SYSTEM_DESCRIPTION",
    "Translation",
    "Translator",
    "Untranslatable",
    "DEFAULT_S2_VERSION",
    "spelled_by_peer",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "": "general frbc ddbc ombc pebc ppbc",
        "s2connect.messages.base": "IdentifiedMessage S2Message S2Object new_id",
        "s2connect.messages.catalogue": "BETA V1 data_model parse parse_message",
        "s2connect.messages.enums": "Check",
        "s2connect.messages.conversation": "Conversation ValidationResult",
        "s2connect.messages.envelope": "HANDSHAKES NIL_ID RECEPTION_STATUS SESSION_REQUEST InvalidMessage "
        "Message ReceptionStatusValue read_message reception_status "
        "write_message",
        "s2connect.messages.rules.base": "Finding",
        "s2connect.messages.versions": "SYSTEM_DESCRIPTION Translation Translator Untranslatable",
        "s2connect.model.common": "DEFAULT_S2_VERSION spelled_by_peer",
    },
)
