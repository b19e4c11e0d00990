"""Hypothesis strategies for what is on the wire of S2 Connect, in the wire's own shape: plain JSON values.

They are written from the OpenAPI files, not from the models, so that a model that misreads a file is noticed.
"""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import strategies as st

ROLES = ("CEM", "RM")
DEPLOYMENTS = ("WAN", "LAN")
ALPHANUMERIC = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
uuids = st.uuids().map(str)
names = st.lists(texts, max_size=4)
aliases = st.text(ALPHANUMERIC, min_size=1, max_size=16)
tokens = st.text(ALPHANUMERIC, min_size=4, max_size=24)
countries = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=2, max_size=2)
hosts = st.from_regex(r"[a-z][a-z0-9]{0,12}(-[a-z0-9]{1,5})?\.(local|example|nl)", fullmatch=True)
ports = st.integers(1, 65535)
challenges = st.binary(min_size=32, max_size=64).map(lambda raw: base64.b64encode(raw).decode())
attempt_ids = st.binary(min_size=24, max_size=48).map(lambda raw: base64.b64encode(raw).decode())


@st.composite
def base_urls(draw: st.DrawFn) -> str:
    path = draw(st.sampled_from(["", "pairing/", "s2/pairing/", "a-b/c_d/", "v1beta/"]))
    return f"https://{draw(hosts)}:{draw(ports)}/{path}"


@st.composite
def websocket_urls(draw: st.DrawFn) -> str:
    return f"wss://{draw(hosts)}:{draw(ports)}/{draw(st.sampled_from(['', 'ws', 'ws/?node=1']))}"


def objects(required: dict[str, st.SearchStrategy[Any]], **optional: st.SearchStrategy[Any]) -> Any:
    return st.fixed_dictionaries(required, optional=optional)


endpoint_descriptions = objects({}, name=texts, logoUrl=texts, deployment=st.sampled_from(DEPLOYMENTS))
node_descriptions = objects(
    {"id": uuids, "brand": texts, "type": texts, "modelName": texts, "role": st.sampled_from(ROLES)},
    logoUrl=texts,
    userDefinedName=texts,
)
connection_details = objects(
    {"initiateSessionUrl": base_urls(), "accessToken": challenges},
    certificateFingerprint=st.dictionaries(texts, texts, max_size=3),
)
pairing_reasons = st.sampled_from(
    [
        "InvalidCombinationOfRoles",
        "IncompatibleS2MessageVersions",
        "IncompatibleHmacHashingAlgorithms",
        "IncompatibleCommunicationProtocols",
        "NodeNotFound",
        "NoNodeIdProvided",
        "NoValidPairingTokenOnPairingServer",
        "ParsingError",
        "Other",
    ]
)
session_reasons = st.sampled_from(
    ["IncompatibleS2MessageVersions", "IncompatibleCommunicationProtocols", "NoLongerPaired", "ParsingError", "Other"]
)

WIRE: dict[str, st.SearchStrategy[Any]] = {
    "EndpointDescription": endpoint_descriptions,
    "NodeDescription": node_descriptions,
    "RequestPairing": objects(
        {
            "clientNodeDescription": node_descriptions,
            "clientEndpointDescription": endpoint_descriptions,
            "supportedCommunicationProtocols": names,
            "supportedS2MessageVersions": names,
            "supportedHmacHashingAlgorithms": names,
            "clientHmacChallenge": challenges,
        },
        nodeId=uuids,
        nodeIdAlias=aliases,
        forcePairing=st.booleans(),
    ),
    "RequestPairingResponse": objects(
        {
            "pairingAttemptId": attempt_ids,
            "serverNodeDescription": node_descriptions,
            "serverEndpointDescription": endpoint_descriptions,
            "selectedHmacHashingAlgorithm": texts,
            "clientHmacChallengeResponse": challenges,
            "serverHmacChallenge": challenges,
        }
    ),
    "ConnectionDetails": connection_details,
    "RequestConnectionDetails": objects({"serverHmacChallengeResponse": challenges}),
    "PostConnectionDetails": objects(
        {"serverHmacChallengeResponse": challenges, "connectionDetails": connection_details}
    ),
    "FinalizePairing": objects({}, success=st.booleans()),
    "PairingResponseErrorMessage": objects({"errorMessage": pairing_reasons}, additionalInfo=texts),
    "PreparePairing": objects(
        {
            "clientNodeDescription": node_descriptions,
            "clientEndpointDescription": endpoint_descriptions,
            "serverNodeId": uuids,
        }
    ),
    "CancelPreparePairing": objects({"clientNodeId": uuids, "serverNodeId": uuids}),
    "WaitForPairingItem": objects(
        {"clientNodeId": uuids},
        clientNodeDescription=node_descriptions,
        clientEndpointDescription=endpoint_descriptions,
        errorMessage=st.just("NoValidTokenOnPairingClient"),
    ),
    "WaitForPairingOrder": objects(
        {
            "clientNodeId": uuids,
            "action": st.sampled_from(
                ["sendNodeDescription", "preparePairing", "cancelPreparePairing", "requestPairing"]
            ),
        }
    ),
    "InitiateSession": objects(
        {
            "clientNodeId": uuids,
            "serverNodeId": uuids,
            "supportedS2MessageVersions": names,
            "supportedCommunicationProtocols": names,
        },
        clientNodeDescription=node_descriptions,
        clientEndpointDescription=endpoint_descriptions,
    ),
    "InitiateSessionResponse": objects(
        {"selectedCommunicationProtocol": texts, "selectedS2MessageVersion": texts, "accessToken": challenges},
        serverNodeDescription=node_descriptions,
        serverEndpointDescription=endpoint_descriptions,
    ),
    "CommunicationDetails": objects({"communicationProtocol": texts}),
    "WebSocketCommunicationDetails": objects(
        {"communicationProtocol": st.just("WebSocket"), "websocketToken": challenges, "websocketUrl": websocket_urls()}
    ),
    "CommunicationDetailsErrorMessage": objects({"errorMessage": session_reasons}, additionalInfo=texts),
    "Unpair": objects({"clientNodeId": uuids, "serverNodeId": uuids}),
    "EndpointRecord": objects(
        {
            "id": uuids,
            "name": st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
            "description": texts,
            "icon32": texts,
            "icon128": texts,
            "icon512": texts,
            "pairingUrl": base_urls(),
            "regions": st.lists(countries, min_size=1, max_size=3),
            "status": st.sampled_from(["public", "testing"]),
            "cem": st.booleans(),
            "rm": st.booleans(),
        }
    ),
}
"""One strategy per object of the OpenAPI files, by the name of its model."""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
