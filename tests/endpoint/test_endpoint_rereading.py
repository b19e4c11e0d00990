"""Files that a person has changed count at a reload: certificates, trust anchors, password and CA of the broker."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from s2connect import EndpointConfig, Role
from s2connect.certs.chain import capture_chain
from s2connect.endpoint.certificate import Certificates
from tests.endpoint.conftest import OpenEndpoint, Wan
from tests.endpoint.test_endpoint_mqtt import broker, config, linked  # noqa: F401 - fixtures
from tests.waits import until


async def shown(endpoint: object) -> bytes:
    """Return the fingerprint of the leaf that a server shows."""
    port = endpoint.pairing_url.port  # type: ignore[attr-defined]
    return (await capture_chain("wan.test", port, address="127.0.0.1", timeout=10)).leaf_fingerprint


async def test_a_new_certificate_of_the_operator_is_served_and_a_wrong_one_is_not(
    open_endpoint: OpenEndpoint, wan: Wan
) -> None:
    settings = wan.config(Role.CEM, "wan.test")
    endpoint = await open_endpoint(settings)
    assert settings.certificate is not None
    assert settings.private_key is not None
    assert (await endpoint.reread_files()).changed == [], "nothing is new"
    first = await shown(endpoint)
    before: Certificates = await asyncio.to_thread(endpoint.certificates)
    wan.config(Role.CEM, "wan.test")  # writes new files of the same names
    found = await endpoint.reread_files()
    assert (found.changed, found.failed) == (["certificate"], {})
    second = await shown(endpoint)
    assert second != first
    assert (await endpoint.reread_files()).changed == []

    await asyncio.to_thread(settings.certificate.write_text, "no certificate")
    for _ in range(2):  # it is tried each time
        found = await endpoint.reread_files()
        assert list(found.failed) == ["certificate"]
    assert await shown(endpoint) == second
    after = await asyncio.to_thread(endpoint.certificates)
    assert after.leaf is not None
    assert before.leaf is not None
    assert after.leaf.fingerprint_sha256 == second.hex(":").upper() != before.leaf.fingerprint_sha256


async def test_new_trust_anchors_count_for_the_next_request(
    open_endpoint: OpenEndpoint, wan: Wan, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Wan(tmp_path / "other")
    anchors = tmp_path / "anchors.pem"
    shutil.copy(other.anchors, anchors)
    client = await open_endpoint(wan.config(Role.RM, "client.test").model_copy(update={"trust_anchors": anchors}))
    before = client._client._pki
    shutil.copy(wan.anchors, anchors)
    assert (await client.reread_files()).changed == ["trust_anchors"]
    assert client._client._pki is client._state.pki is not before


@pytest.mark.rule("MQ-16", "MQ-18")
async def test_a_new_password_and_ca_of_the_broker_are_used_at_once(
    open_endpoint: OpenEndpoint,
    config: Callable[..., EndpointConfig],  # noqa: F811
    tmp_path: Path,
) -> None:
    settings = config(Role.CEM)
    assert settings.mqtt is not None
    secret = settings.mqtt.password_file
    assert secret is not None
    right = secret.read_text()
    secret.write_text("wrong\n")
    endpoint = await open_endpoint(settings)
    assert endpoint.mqtt is not None
    client = endpoint.mqtt.client
    assert client is not None
    await until(lambda: client.error is not None)
    assert not endpoint.mqtt.can_offer()
    secret.write_text(right)
    assert (await endpoint.reread_files()).changed == ["mqtt"]
    await linked(endpoint)
    assert not client.suspicion

    ca, kept = settings.mqtt.ca_file, tmp_path / "kept.pem"
    assert ca is not None
    shutil.copy(ca, kept)
    ca.write_text("no certificate")
    found = await endpoint.reread_files()
    assert "0 certificates" in found.failed["mqtt"]
    assert endpoint.mqtt.can_offer(), "what is in force stays so"
    shutil.copy(kept, ca)
    secret.write_text("wrong\n")
    assert (await endpoint.reread_files()).changed == ["mqtt"]
    await until(lambda: client.error is not None and not endpoint.mqtt.can_offer())  # type: ignore[union-attr]
