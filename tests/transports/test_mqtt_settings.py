"""MQTT settings as they stand in files, and what the client takes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from s2connect.errors import ConfigurationError
from s2connect.transports.mqtt.parameters import MqttPassword
from s2connect.transports.mqtt.settings import MqttSettings

URL = "mqtts://broker.example:8884"
SECRET = "correct horse"


def read(**values: Any) -> MqttSettings:
    return MqttSettings.model_validate_json(json.dumps({"url": URL, **values}), strict=True)


@pytest.mark.parametrize(
    "values",
    [
        {"url": "mqtt://broker.example"},
        {"client_id": "open"},
        {"prefix": "a//b"},
        {"password_file": "secret"},
        {"protection": "none"},
        {"group": "a/b"},
        {"minimum_tls": "1.1"},
        {"password": SECRET},
    ],
)
def test_a_mistake_names_its_member_and_shows_no_value(values: dict[str, str]) -> None:
    with pytest.raises(ValidationError) as caught:
        read(**values)
    assert [error["loc"] for error in caught.value.errors()] == [tuple(values)]
    assert SECRET not in str(caught.value)


def test_what_was_read_is_written_as_it_was() -> None:
    values = {"url": URL, "prefix": "acme", "username": "us", "protection": "plain", "minimum_tls": "1.2"}
    settings = read(**values).with_password(MqttPassword(SECRET))
    assert json.loads(settings.model_dump_json(exclude_none=True)) == values
    assert SECRET not in repr(settings)


def test_complete_reads_the_password_and_makes_a_client_id_of_the_host(tmp_path: Path) -> None:
    file = tmp_path / "password"
    settings = read(username="us", password_file=str(file))
    with pytest.raises(ConfigurationError, match="is missing"):
        settings.complete("host.local")
    file.touch(0o600)
    file.write_text(f"{SECRET}\n")
    complete = settings.complete("höst.local")
    assert complete.client_id == "s2-h-st.local"
    assert complete.password == MqttPassword(SECRET)
    assert settings.password is None
    assert read(client_id="mine").complete("host").client_id == "mine"


@pytest.mark.rule("MQ-16")
def test_each_instance_has_a_client_id_of_its_own() -> None:
    assert read().complete("cloud.example", "a-1").client_id == "s2-cloud.example-a-1"
    assert read().complete("x" * 80, "a-1").client_id == f"s2-{'x' * 57}-a-1"
    complete = read(client_id="cloud:{instance}", username="cloud:{instance}").complete("host", "a-1")
    assert (complete.client_id, complete.username) == ("cloud:a-1", "cloud:a-1")
    with pytest.raises(ConfigurationError, match="client id of this instance"):
        read(client_id=f"{'x' * 50}{{instance}}").complete("host", "a" * 20)


NODES = ["mqtts://a.example", "mqtts://b.example:8884"]


def test_a_cluster_is_a_list_of_urls_with_or_without_a_first_one() -> None:
    settings = MqttSettings.model_validate_json(json.dumps({"urls": NODES}), strict=True)
    assert [str(url) for url in settings.nodes] == NODES
    assert settings.settle_seconds > 0, "it takes time until all nodes know of a subscription"
    again = MqttSettings.model_validate_json(settings.model_dump_json(exclude_none=True), strict=True)
    assert again == settings
    assert [str(url) for url in read(urls=NODES).nodes] == [URL, *NODES]
    assert read().settle_seconds == 0
    assert read(settle=2).settle_seconds == 2, "one address before a cluster"
    node = settings.with_password(MqttPassword(SECRET)).at(settings.nodes[1])
    assert (node.url, node.password) == (settings.nodes[1], MqttPassword(SECRET))


@pytest.mark.parametrize(
    ("urls", "member"),
    [([], "urls"), (["mqtt://a.example"], "urls"), (["mqtts://a.example", "wss://b.example/mqtt"], "url")],
)
def test_nodes_that_cannot_be_those_of_one_cluster_are_refused(urls: list[str], member: str) -> None:
    with pytest.raises(ValidationError) as caught:
        read(urls=urls)
    assert {error["loc"][0] for error in caught.value.errors()} == {member}


def test_a_broker_has_a_url() -> None:
    with pytest.raises(ValidationError, match="url"):
        MqttSettings.model_validate_json("{}", strict=True)
