"""Refusals of pairing requests, each with its reason and a sentence for a person (PAIR-01)."""

from __future__ import annotations

from s2connect.model.common import SHA256, Deployment, MalformedMessage, Role, choose_name, choose_version
from s2connect.model.local import LocalNode
from s2connect.model.pairing import PairingErrorReason, PairingResponseErrorMessage, RequestPairing
from s2connect.model.reply import Reply


def refusal(reason: PairingErrorReason, info: str) -> Reply:
    """Return a 400 with its reason; ``info`` is a sentence of ours for a person (PAIR-01)."""
    return Reply(400, PairingResponseErrorMessage(error_message=reason, additional_info=info))


def malformed(fault: MalformedMessage | str) -> Reply:
    """Return a 400 for a request that breaks its schema. It names the member, which helps and is no secret."""
    return refusal(PairingErrorReason.PARSING_ERROR, f"The request does not follow its schema: {fault}.")


def unfit(node: LocalNode, role: Role, *, ready: bool) -> Reply | None:
    """Return the refusal of any pairing of a node with one of ``role``, now or ever; None if one may come about."""
    if not ready:
        return refusal(PairingErrorReason.OTHER, "Not ready for pairing yet; try again in a moment.")
    if role is node.description.role:
        return refusal(
            PairingErrorReason.INVALID_COMBINATION_OF_ROLES,
            "Only an energy manager and a device can pair with each other.",
        )
    return None


def incompatible(node: LocalNode, request: RequestPairing, *, ready: bool, wan_clients_only: bool) -> Reply | None:
    """Return the refusal of a request that no token could lead to a pairing; None if one could (PAIR-01)."""
    reasons = PairingErrorReason
    if (refused := unfit(node, request.client_node_description.role, ready=ready)) is not None:
        return refused
    if choose_name((SHA256,), request.supported_hmac_hashing_algorithms) is None:
        return refusal(reasons.INCOMPATIBLE_HMAC_HASHING_ALGORITHMS, "This endpoint supports SHA256 only.")
    if not request.force_pairing:
        if choose_name(node.communication_protocols, request.supported_communication_protocols) is None:
            names = ", ".join(node.communication_protocols)
            return refusal(reasons.INCOMPATIBLE_COMMUNICATION_PROTOCOLS, f"This node speaks {names}.")
        if choose_version(node.s2_versions, request.supported_s2_message_versions) is None:
            versions = ", ".join(node.s2_versions)
            return refusal(reasons.INCOMPATIBLE_S2_MESSAGE_VERSIONS, f"This node speaks S2 JSON {versions}.")
    if wan_clients_only and request.client_endpoint_description.deployment is not Deployment.WAN:
        return refusal(reasons.OTHER, "This server pairs with clients in the WAN only; use the device's own URL.")
    return None
