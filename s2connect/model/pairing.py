"""Objects of ``s2-connect-pairing.yml``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, StrictBool, StringConstraints

from s2connect.model.common import EndpointDescription, Names, NodeDescription, NodeId, Wire, or_other
from s2connect.model.secret import AccessToken, HmacChallenge, HmacChallengeResponse, PairingAttemptId
from s2connect.model.url import BaseUrl

NodeIdAlias = Annotated[str, StringConstraints(pattern=r"\A[0-9a-zA-Z]+\z", max_length=64)]
"""Short name of a node, unique within its endpoint (TOK-03)."""


class PairingErrorReason(StrEnum):
    """``errorMessage`` of a refused pairing request (PAIR-01)."""

    INVALID_COMBINATION_OF_ROLES = "InvalidCombinationOfRoles"
    INCOMPATIBLE_S2_MESSAGE_VERSIONS = "IncompatibleS2MessageVersions"
    INCOMPATIBLE_HMAC_HASHING_ALGORITHMS = "IncompatibleHmacHashingAlgorithms"
    INCOMPATIBLE_COMMUNICATION_PROTOCOLS = "IncompatibleCommunicationProtocols"
    NODE_NOT_FOUND = "NodeNotFound"
    NO_NODE_ID_PROVIDED = "NoNodeIdProvided"
    NO_VALID_PAIRING_TOKEN_ON_PAIRING_SERVER = "NoValidPairingTokenOnPairingServer"
    PARSING_ERROR = "ParsingError"
    OTHER = "Other"


class WaitForPairingError(StrEnum):
    """``errorMessage`` of a long-polling client (LP-05)."""

    NO_VALID_TOKEN_ON_PAIRING_CLIENT = "NoValidTokenOnPairingClient"


class WaitForPairingAction(StrEnum):
    """``action`` a long-polling server asks for (LP-04)."""

    SEND_NODE_DESCRIPTION = "sendNodeDescription"
    PREPARE_PAIRING = "preparePairing"
    CANCEL_PREPARE_PAIRING = "cancelPreparePairing"
    REQUEST_PAIRING = "requestPairing"


def _false_for_null(value: Any) -> Any:
    return False if value is None else value


def _text_values(value: Any) -> Any:
    """Sort a map, and keep only its texts; any other kind of object is an empty map."""
    if value is None:
        return None
    entries = value.items() if isinstance(value, dict) else ()
    return {key: text for key, text in sorted(entries) if isinstance(text, str)}


class RequestPairing(Wire):
    """Body of ``requestPairing``."""

    client_node_description: NodeDescription
    client_endpoint_description: EndpointDescription
    node_id: NodeId | None = None
    node_id_alias: NodeIdAlias | None = None
    supported_communication_protocols: Names
    supported_s2_message_versions: Names
    supported_hmac_hashing_algorithms: Names
    client_hmac_challenge: HmacChallenge
    force_pairing: Annotated[StrictBool, BeforeValidator(_false_for_null)] = False


class RequestPairingResponse(Wire):
    """Answer to ``requestPairing``."""

    pairing_attempt_id: PairingAttemptId
    server_node_description: NodeDescription
    server_endpoint_description: EndpointDescription
    selected_hmac_hashing_algorithm: str
    client_hmac_challenge_response: HmacChallengeResponse
    server_hmac_challenge: HmacChallenge


class ConnectionDetails(Wire):
    """Connection details: how the communication client reaches the communication server.

    ``certificate_fingerprint`` holds what a peer wrote, right or wrong: who needs it reads it (TRUST-07).
    """

    initiate_session_url: BaseUrl
    access_token: AccessToken
    certificate_fingerprint: Annotated[dict[str, str] | None, BeforeValidator(_text_values)] = None


class RequestConnectionDetails(Wire):
    """Body of ``requestConnectionDetails``."""

    server_hmac_challenge_response: HmacChallengeResponse


class PostConnectionDetails(Wire):
    """Body of ``postConnectionDetails``."""

    server_hmac_challenge_response: HmacChallengeResponse
    connection_details: ConnectionDetails


class FinalizePairing(Wire):
    """Body of ``finalizePairing``. The schema lets ``success`` be missing; the server refuses that (PAIR-09)."""

    success: StrictBool | None = None


class PairingResponseErrorMessage(Wire):
    """Body of a 400."""

    error_message: Annotated[PairingErrorReason, or_other(PairingErrorReason)]
    additional_info: str | None = None


class PreparePairing(Wire):
    """Body of ``preparePairing``."""

    client_node_description: NodeDescription
    client_endpoint_description: EndpointDescription
    server_node_id: NodeId


class CancelPreparePairing(Wire):
    """Body of ``cancelPreparePairing``."""

    client_node_id: NodeId
    server_node_id: NodeId


class WaitForPairingItem(Wire):
    """One node in the body of ``waitForPairing``."""

    client_node_id: NodeId
    client_node_description: NodeDescription | None = None
    client_endpoint_description: EndpointDescription | None = None
    error_message: WaitForPairingError | None = None


class WaitForPairingOrder(Wire):
    """One node in the answer to ``waitForPairing``."""

    client_node_id: NodeId
    action: WaitForPairingAction
