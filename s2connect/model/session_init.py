"""Objects of ``s2-connect-session-init.yml``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict

from s2connect.model.common import EndpointDescription, Names, NodeDescription, NodeId, Wire, or_other
from s2connect.model.secret import AccessToken, CommunicationToken
from s2connect.model.url import WebSocketUrl


class SessionErrorReason(StrEnum):
    """``errorMessage`` of a refused session (SES-01)."""

    INCOMPATIBLE_S2_MESSAGE_VERSIONS = "IncompatibleS2MessageVersions"
    INCOMPATIBLE_COMMUNICATION_PROTOCOLS = "IncompatibleCommunicationProtocols"
    NO_LONGER_PAIRED = "NoLongerPaired"
    PARSING_ERROR = "ParsingError"
    OTHER = "Other"


class InitiateSession(Wire):
    """Body of ``initiateSession``."""

    client_node_id: NodeId
    server_node_id: NodeId
    supported_s2_message_versions: Names
    supported_communication_protocols: Names
    client_node_description: NodeDescription | None = None
    client_endpoint_description: EndpointDescription | None = None


class InitiateSessionResponse(Wire):
    """Answer to ``initiateSession``."""

    selected_communication_protocol: str
    selected_s2_message_version: str
    access_token: AccessToken
    server_node_description: NodeDescription | None = None
    server_endpoint_description: EndpointDescription | None = None


class CommunicationDetails(Wire):
    """Answer to ``confirmAccessToken``; what else it holds depends on the protocol (SES-04).

    Members of protocols that this class does not know are kept, so that a transport of a third party can read them.
    """

    model_config = ConfigDict(extra="allow")

    communication_protocol: str


class WebSocketCommunicationDetails(CommunicationDetails):
    """Answer to ``confirmAccessToken`` for WebSocket."""

    websocket_token: CommunicationToken
    websocket_url: WebSocketUrl


class CommunicationDetailsErrorMessage(Wire):
    """Body of a 400."""

    error_message: Annotated[SessionErrorReason, or_other(SessionErrorReason)]
    additional_info: str | None = None


class Unpair(Wire):
    """Body of ``unpair``."""

    client_node_id: NodeId
    server_node_id: NodeId
