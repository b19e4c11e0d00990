"""Alert rules and dashboard: Prometheus takes them, and each metric that they name exists."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "examples" / "monitoring"
NAME = re.compile(r"\b(?:s2connect|process)_[a-z_]+")
PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes"}  # of the client library
LABELS = re.compile(r"(s2connect_[a-z_]+)\{([^}]*)\}")


def documented() -> dict[str, set[str]]:
    """Metrics and their labels by docs/metrics.md, which the tests of the web hold against what is served."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "docs" / "metrics.md").read_text().splitlines():
        if match := re.match(r"\| `(s2connect_\w+)` \| (\w+) \| (.*?) \|", line):
            name, labels = match[1], set(re.findall(r"`(\w+)`", match[3]))
            found[name] = labels
            if match[2] == "histogram":
                found[f"{name}_bucket"] = labels | {"le"}
    return found


def expressions() -> list[str]:
    rules = yaml.safe_load((FILES / "alerts.yml").read_text())
    dashboard: dict[str, Any] = json.loads((FILES / "dashboard.json").read_text())
    alerts = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return alerts + [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_each_metric_and_label_of_rules_and_dashboard_exists() -> None:
    known = documented()
    assert len(known) > 15
    for expression in expressions():
        for name in NAME.findall(expression):
            assert name in known or name in PROCESS, expression
        for name, selected in LABELS.findall(expression):
            assert set(re.findall(r"(\w+)=", selected)) <= known[name] | {"instance", "job"}, expression


def test_each_alert_says_what_helps() -> None:
    rules = yaml.safe_load((FILES / "alerts.yml").read_text())
    for rule in rules["groups"][0]["rules"]:
        assert set(rule["annotations"]) == {"summary", "action"}
        assert rule["labels"]["severity"] in ("warning", "critical")


@pytest.mark.parametrize("command", [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]])
def test_prometheus_takes_the_rules(command: list[str], tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    for name in ("alerts.yml", "alerts_test.yml"):
        shutil.copy(FILES / name, tmp_path)
    done = subprocess.run([promtool, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("expression", expressions())
def test_prometheus_parses_each_query_of_the_dashboard(expression: str, tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    query = expression.replace("$instance", ".*")
    rules = {"groups": [{"name": "one", "rules": [{"record": "one", "expr": query}]}]}
    (tmp_path / "one.yml").write_text(yaml.safe_dump(rules))
    done = subprocess.run(
        [promtool, "check", "rules", "one.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
