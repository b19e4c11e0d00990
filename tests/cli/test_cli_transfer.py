"""``s2connect transfer``: from a vendor's WAN pairing server to the device, with the command and the sidecar."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import trustme

from s2connect.cli import main
from tests.cli.test_cli_command import said
from tests.command import Running, run

Capture = pytest.CaptureFixture[str]
DEVICE = str(uuid4())


class House:
    """Homes of a vendor's server, of its device and of an energy manager on the internet, all of one public CA."""

    def __init__(self, place: Path) -> None:
        ca = trustme.CA()
        self.anchors = place / "ca.pem"
        ca.cert_pem.write_to_path(self.anchors)
        leaf = ca.issue_cert("localhost")
        self.chain, self.key = place / "chain.pem", place / "key.pem"
        self.chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        self.key.write_bytes(leaf.private_key_pem.bytes())
        self.key.chmod(0o600)
        own = ("--certificate", str(self.chain), "--private-key", str(self.key), "--allow-private-addresses")
        self.vendor = self._init(place / "vendor", "rm", "--wan-pairing-server", "--id", DEVICE, *own)
        self.system = self._init(place / "system", "cem", "--deployment", "wan", "--name", "Cloud", *own)
        self.device = self._init(place / "device", "rm", "--id", DEVICE)

    def _init(self, home: Path, role: str, *arguments: str) -> Path:
        common = ("--host", "localhost", "--bind", "127.0.0.1", "--port", "0", "--vault", "files")
        done = run(
            "init", "--home", str(home), "--role", role, *common, "--trust-anchors", str(self.anchors), *arguments
        )
        assert done.returncode == 0, done.stderr
        return home


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.fixture
def paired(house: House) -> Iterator[tuple[Running, Running]]:
    """The vendor's server and the energy manager, which has paired with the device there."""
    vendor, system = Running(house.vendor), Running(house.system)
    try:
        url, code = vendor.ready()
        system.ready()
        made = system.command("pair", url=url, code=code)
        assert made["ok"], made
        assert vendor.event("paired")["peer"]["user_defined_name"] == "Cloud"
        yield vendor, system
    finally:
        vendor.kill()
        system.kill()


@pytest.mark.long
@pytest.mark.rule("ROLE-03")
def test_the_device_takes_over_by_sidecar_what_the_vendor_has_paired(
    house: House, paired: tuple[Running, Running], start: Callable[..., Running]
) -> None:
    vendor, system = paired
    exported = vendor.command("export_pairing", peer="Cloud")
    assert (exported["ok"], exported["node"]) == (True, DEVICE)
    device = start(house.device)
    device.ready()
    assert device.command("import_pairing", pairing="{}")["error"]["what"].startswith("This is no pairing")
    for _ in range(2):
        assert device.command("import_pairing", pairing=exported["pairing"])["ok"], "it may come twice"
    assert system.event("session_opened")["peer"]["id"] == DEVICE
    assert vendor.command("discard_pairing", peer="Cloud")["ok"]
    assert vendor.command("status")["pairings"] == []
    assert vendor.command("discard_pairing", peer="Cloud")["error"]["kind"] == "not_paired"
    assert "session_opened" not in [event["event"] for event in vendor.events], "it is no device"


@pytest.mark.long
@pytest.mark.rule("ROLE-03")
def test_the_device_takes_it_over_by_command(
    house: House, paired: tuple[Running, Running], tmp_path: Path, capsys: Capture
) -> None:
    file, vendor = tmp_path / "pairing.json", ("--home", str(house.vendor))
    _, err = said(capsys, "transfer", "export", "Cloud", str(file), *vendor)
    assert f"on the device {DEVICE}: s2connect transfer import pairing.json" in " ".join(err.split())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = json.loads(file.read_text())["accessTokens"][0]
    assert token not in err
    _, err = said(capsys, "transfer", "export", "Cloud", str(file), *vendor, code=2)
    assert "There is a file" in err
    out, _ = said(capsys, "transfer", "import", str(file), "--home", str(house.device))
    assert "Paired with Cloud" in out
    assert token not in out
    _, err = said(capsys, "transfer", "discard", "Cloud", *vendor, code=2)
    assert "--yes" in err, "nobody can be asked"
    out, _ = said(capsys, "transfer", "discard", "Cloud", "--yes", *vendor)
    assert "the device's alone" in out
    device = ("--home", str(house.device))
    for refused in (("export", "Cloud", str(tmp_path / "again")), ("discard", "Cloud", "--yes")):
        _, err = said(capsys, "transfer", *refused, *device, code=2)
        assert "its pairings are its own" in err
        assert "s2connect unpair" in err
    pairings = run("pairings", "--json", *device)
    assert [one["peer"]["user_defined_name"] for one in json.loads(pairings.stdout)["pairings"]] == ["Cloud"]


def test_what_cannot_be_imported_or_set_up_is_said(rm: Path, tmp_path: Path, capsys: Capture) -> None:
    home = ("--home", str(rm))
    (tmp_path / "other").write_text('{"nodeId": "x"}')
    _, err = said(capsys, "transfer", "import", str(tmp_path / "other"), *home, code=2)
    assert "This is no pairing: nodeId is not a UUID" in err
    _, err = said(capsys, "transfer", "import", str(tmp_path / "none"), *home, code=2)
    assert "cannot be read" in err
    _, err = said(capsys, "transfer", "export", "Cloud", str(tmp_path / "file"), *home, code=6)
    assert "There is no pairing with Cloud" in err
    assert not (tmp_path / "file").exists()
    capsys.readouterr()
    new = ("--home", str(tmp_path / "new"))
    assert main(["init", "--role", "rm", "--wan-pairing-server", *new]) == 2
    assert "certificate of a public CA" in capsys.readouterr().err
    assert main(["init", "--role", "rm", "--id", "7", *new]) == 2
    assert "UUID" in capsys.readouterr().err


def test_the_server_of_a_vendor_gets_a_node_with_the_id_of_each_device(rm: Path, capsys: Capture) -> None:
    home = ("--home", str(rm))
    said(capsys, "node", "add", "--role", "rm", "--id", DEVICE, *home)
    out, _ = said(capsys, "node", "list", "--json", *home)
    assert DEVICE in [node["id"] for node in json.loads(out)["nodes"]]
    _, err = said(capsys, "node", "add", "--role", "rm", "--id", DEVICE, *home, code=2)
    assert "the same id" in err
    _, err = said(capsys, "node", "add", "--role", "rm", "--id", "7", *home, code=2)
    assert "UUID" in err
