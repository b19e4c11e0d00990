"""Kubernetes manifests: valid by the schemas of Kubernetes, and true about the program that they run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from s2connect import EndpointConfig, Home, read_config
from s2connect.cli import main
from tests.haproxy import EXAMPLES

FILES = sorted((EXAMPLES / "kubernetes").glob("*.yaml"))
VERSIONS = ["1.29", kubernetes_validate.latest_version()]


def objects(kind: str) -> list[dict[str, Any]]:
    return [one for file in FILES for one in yaml.safe_load_all(file.read_text("utf-8")) if one["kind"] == kind]


SETTINGS = json.loads(objects("ConfigMap")[0]["data"]["config.json"])
POD = objects("StatefulSet")[0]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_manifest_is_valid(file: Path, version: str) -> None:
    for one in yaml.safe_load_all(file.read_text("utf-8")):
        kubernetes_validate.validate(one, version, strict=True)


def test_a_wrong_manifest_would_be_noticed() -> None:
    wrong = objects("StatefulSet")[0] | {"spec": {"replica": 3}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_the_settings_make_a_home_as_the_init_container_does(tmp_path: Path) -> None:
    config = EndpointConfig.model_validate(SETTINGS)
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "config.json").write_text(json.dumps(SETTINGS))
    (tmp_path / "secrets").mkdir()
    for name in objects("Secret")[0]["stringData"]:
        (tmp_path / "secrets" / name).write_text(name)
    (script,) = POD["initContainers"][0]["args"]
    script = script.replace("/etc/s2connect", str(tmp_path)).replace("/var/lib/s2connect", str(tmp_path))
    subprocess.run([*POD["initContainers"][0]["command"], script], check=True)
    assert read_config(Home.open(tmp_path / "home")) == config
    for one in CONTAINER["env"][1:]:
        file = tmp_path / Path(one["value"]).name
        assert file.stat().st_mode & 0o777 == 0o600, "others may not read it, or libpq does not"


def test_the_drain_ends_before_the_pod_is_killed() -> None:
    config = EndpointConfig.model_validate(SETTINGS)
    wait = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert POD["terminationGracePeriodSeconds"] >= wait + config.drain_wait + 10_000 / config.drain_rate


def test_ports_and_networks_are_those_of_the_settings() -> None:
    config = EndpointConfig.model_validate(SETTINGS)
    assert config.metrics is not None
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert ports == {"s2": config.listens_on, "metrics": config.metrics.port}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert CONTAINER[probe]["httpGet"]["port"] == "metrics"
    (service, names), (policy,) = objects("Service"), objects("NetworkPolicy")
    assert objects("StatefulSet")[0]["spec"]["serviceName"] == names["metadata"]["name"]
    assert service["spec"]["ports"] == [{"name": "s2", "port": config.port, "targetPort": "s2"}]
    blocks = [one["ipBlock"]["cidr"] for one in policy["spec"]["ingress"][0]["from"]]
    assert blocks == list(config.balancers)
    labels = objects("StatefulSet")[0]["spec"]["selector"]["matchLabels"]
    for selector in (
        service["spec"]["selector"],
        names["spec"]["selector"],
        policy["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector == labels
    assert objects("PodDisruptionBudget")[0]["spec"]["selector"]["matchLabels"] == labels


def test_the_commands_and_variables_are_the_programs(capsys: pytest.CaptureFixture[str]) -> None:
    for spec in (POD, objects("Job")[0]["spec"]["template"]["spec"]):
        words = spec["containers"][0]["args"]
        command = words[: next(at for at, word in enumerate(words) if word.startswith("--"))]
        assert main([*command, "--help"]) == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in words if word.startswith("--"))
    migrating = objects("Job")[0]["spec"]["template"]["spec"]["containers"][0]
    assert SETTINGS["store"] in migrating["args"]
    files = {one["name"]: Path(one["value"]).name for one in CONTAINER["env"]}
    assert files == {"S2CONNECT_HOME": "home", "S2CONNECT_STORE_KEY_FILE": "store.key", "PGPASSFILE": "pgpass"}
    assert {"store.key", "pgpass"} == set(objects("Secret")[0]["stringData"])


def test_no_container_has_more_than_it_needs() -> None:
    for spec in (POD, objects("Job")[0]["spec"]["template"]["spec"]):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["automountServiceAccountToken"] is False
        for container in [*spec["containers"], *spec.get("initContainers", ())]:
            assert container["securityContext"] == {
                "readOnlyRootFilesystem": True,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
