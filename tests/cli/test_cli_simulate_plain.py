"""``s2connect simulate rm --plain``: an old device."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from s2connect import NodeDescription, NodeId, Role, Session
from s2connect.cli import main
from s2connect.endpoint.plain_server import PlainServer
from s2connect.model.secret import Secret
from s2connect.transports.plain import PlainAcceptor
from tests.waits import within

TOKEN = "token-of-the-heat-pump"


def private(path: Path, text: str) -> Path:
    path.touch(0o600)
    path.write_text(text)
    return path


@pytest.mark.long
async def test_it_speaks_the_beta_with_its_token_and_comes_back(tmp_path: Path) -> None:
    acceptor = PlainAcceptor(role=Role.CEM, local=NodeId(uuid4()), tokens={"heat-pump": Secret(TOKEN)})
    peer = NodeDescription(id=NodeId(uuid4()), brand="b", type="t", model_name="m", role=Role.RM)
    token_file = private(tmp_path / "token", TOKEN + "\n")
    async with PlainServer(acceptor, path="/s2") as server:
        url = f"ws://127.0.0.1:{server.port}/s2"
        arguments = ["simulate", "rm", "heat-pump", "--control-type", "ddbc", "--plain", url, "--json"]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "s2connect", *arguments, "--token-file", str(token_file)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            async with within(30):
                for _ in range(2):
                    connection = await anext(server)
                    assert connection.info.s2_version == "0.0.2-beta"
                    session = Session(connection, peer=peer, role=Role.CEM)
                    assert (await session.receive()).type == "ResourceManagerDetails"
                    await session.close()
        finally:
            process.terminate()
            output, _ = await process.communicate()
    events = [json.loads(line)["event"] for line in output.splitlines()]
    assert events.count("connected") == events.count("disconnected") == 2
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--plain", "ws://127.0.0.1/", "--pair", "https://localhost/"], "neither --pair nor --home"),
        (["--plain", "ws://127.0.0.1/", "--home", "somewhere"], "neither --pair nor --home"),
        (["--token-file", "token"], "belongs to --plain"),
        (["--plain", "ws://127.0.0.1/", "--token-file", "nowhere"], "no file nowhere"),
        (["--plain", "ws://192.0.2.7/"], "TLS"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", "rm", "battery", *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
