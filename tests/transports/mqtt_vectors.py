"""Computes docs/s2-over-mqtt-vectors.json without any code of s2connect.

HKDF (RFC 5869) and the proof are written here with ``hmac`` and ``hashlib`` alone; AES-256-GCM is the block cipher in
GCM mode of ``cryptography`` (OpenSSL), used without its AEAD interface. Topics and associated data are put together by
hand as docs/s2-over-mqtt.md says. ``python tests/transports/mqtt_vectors.py`` writes the file anew.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

FILE = Path(__file__).resolve().parents[2] / "docs" / "s2-over-mqtt-vectors.json"

PREFIX = "acme"
SERVER = "6a5bd1b6-6d7e-4a5c-9d0e-0f5f7b1f2a31"
CLIENT = "0d4c9a1e-3f7b-4a1e-8c55-9b9f3f0e7c12"
MC = "gateway-7"
SID = "kS1xQ0b9V2mE7tYc4uWz8A"
BOOT = "b7Qm2Zr9"
TOKEN = bytes(range(32))
SALT = bytes(range(64, 96))
VERSIONS = ["v1.0.0", "0.0.2-beta"]
DATA = '{"message_type":"ReceptionStatus","subject_message_id":"a1b2","status":"OK","diagnostic_label":"naïve ✓"}'


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int = 32) -> bytes:
    """RFC 5869 with SHA-256; an absent salt is 32 zero bytes."""
    pseudo_random = hmac.new(salt or bytes(32), secret, hashlib.sha256).digest()
    block, out, counter = b"", b"", 1
    while len(out) < length:
        block = hmac.new(pseudo_random, block + info + bytes([counter]), hashlib.sha256).digest()
        out += block
        counter += 1
    return out[:length]


def seal(key: bytes, seq: int, associated: bytes, payload: bytes) -> bytes:
    """AES-256-GCM, the tag behind the ciphertext."""
    encryptor = Cipher(AES(key), GCM(bytes(4) + seq.to_bytes(8, "big"))).encryptor()
    encryptor.authenticate_additional_data(associated)
    ciphertext = encryptor.update(payload) + encryptor.finalize()
    return ciphertext + encryptor.tag


def associated_data(topic: str, kind: str, seq: int) -> bytes:
    """Length and topic, length and kind, sequence number."""
    place, name = topic.encode("utf-8"), kind.encode("ascii")
    return len(place).to_bytes(2, "big") + place + bytes([len(name)]) + name + seq.to_bytes(8, "big")


def info(direction: str) -> str:
    return f"s2-over-mqtt/0|{direction}|{SID}"


def session_topic(direction: str) -> str:
    return f"{PREFIX}/s2/0/{SERVER}/{MC}/{CLIENT}/{SID}/{direction}"


def proof_input(versions: list[str]) -> str:
    return "|".join([SID, MC, BOOT, *([",".join(versions)] if versions else [])])


def frame(key: bytes, direction: str, kind: str, seq: int, payload: str, **more: Any) -> dict[str, Any]:
    """A sealed frame, every step of it."""
    topic = session_topic(direction)
    associated = associated_data(topic, kind, seq)
    properties = [["s2-frame", kind], ["s2-seq", str(seq)]]
    if kind == "data":
        properties.append(["s2-ver", VERSIONS[0]])
    if "salt" in more:
        properties.append(["s2-salt", base64.b64encode(more.pop("salt")).decode()])
    return {
        "direction": direction,
        "topic": topic,
        "kind": kind,
        "seq": seq,
        "nonce": (bytes(4) + seq.to_bytes(8, "big")).hex(),
        "associatedData": associated.hex(),
        "plaintext": payload,
        "sealed": seal(key, seq, associated, payload.encode("utf-8")).hex(),
        "contentType": "application/vnd.s2-sealed",
        "userProperties": properties,
    }


def key_entry(direction: str, salt: bytes) -> dict[str, Any]:
    return {
        "direction": direction,
        "salt": salt.hex(),
        "info": info(direction),
        "key": hkdf(TOKEN, salt, info(direction).encode("ascii")).hex(),
    }


def open_payload(versions: list[str]) -> tuple[str, str]:
    proof = hmac.new(TOKEN, proof_input(versions).encode("ascii"), hashlib.sha256).digest()
    value: dict[str, Any] = {"sid": SID, "client": CLIENT, "server": SERVER, "mc": MC, "boot": BOOT}
    if versions:
        value["versions"] = versions
    value["proof"] = base64.b64encode(proof).decode()
    return proof.hex(), json.dumps(value, separators=(",", ":"))


def opening(versions: list[str]) -> dict[str, Any]:
    proof, payload = open_payload(versions)
    return {
        "topic": f"{PREFIX}/s2/0/{SERVER}/open",
        "proofInput": proof_input(versions),
        "proof": proof,
        "payload": payload,
        "contentType": "application/vnd.s2-control+json",
        "userProperties": [["s2-frame", "open"]],
    }


def _changed(sealed: str, at: int) -> str:
    raw = bytearray.fromhex(sealed)
    raw[at] ^= 1
    return raw.hex()


def refused(up: bytes, down: bytes) -> list[dict[str, Any]]:
    """Packets that the energy manager (communication server) gets after ``accept``, and their results."""
    first = frame(up, "rm2cem", "data", 1, DATA)
    second = frame(up, "rm2cem", "data", 2, DATA)
    other = frame(up, "rm2cem", "ping", 1, "{}")
    wrong = {**first, "sealed": seal(down, 1, bytes.fromhex(first["associatedData"]), DATA.encode()).hex()}
    moved_topic = session_topic("rm2cem").replace(SID, SID[::-1])
    moved = {**first, "sealed": seal(up, 1, associated_data(moved_topic, "data", 1), DATA.encode()).hex()}
    renumbered = {**second, "seq": 1, "userProperties": [["s2-frame", "data"], ["s2-seq", "1"], ["s2-ver", "v1.0.0"]]}
    renamed = {**other, "kind": "pong", "userProperties": [["s2-frame", "pong"], ["s2-seq", "1"]]}
    shorter = {**first, "sealed": first["sealed"][:-2]}

    def case(name: str, frames: list[dict[str, Any]], delivered: int, closes: bool) -> dict[str, Any]:
        keep = ("topic", "userProperties", "contentType", "sealed")
        return {
            "name": name,
            "frames": [{k: f[k] for k in keep} for f in frames],
            "delivered": delivered,
            "closesWith": "protocol" if closes else None,
        }

    return [
        case("in order", [first, second], 2, False),
        case("a repeated frame is dropped", [first, first, second, first], 2, False),
        case("a gap", [second], 0, True),
        case("two frames in the wrong order", [second, first], 0, True),
        case("a changed byte of the ciphertext", [{**first, "sealed": _changed(first["sealed"], 0)}], 0, True),
        case("a changed byte of the tag", [{**first, "sealed": _changed(first["sealed"], -1)}], 0, True),
        case("a byte is missing", [shorter], 0, True),
        case("sealed for the topic of another session", [moved], 0, True),
        case("sealed with the key of the other direction", [wrong], 0, True),
        case("a frame with another number than it was sealed with", [renumbered], 0, True),
        case("a frame of another kind than it was sealed as", [renamed], 0, True),
        case("the text in the clear", [{**first, "sealed": DATA.encode().hex()}], 0, True),
        case(
            "another S2 version",
            [{**first, "userProperties": [*first["userProperties"][:2], ["s2-ver", "2"]]}],
            0,
            True,
        ),
    ]


LISTED_AT = 1767225600000


def device_list() -> dict[str, Any]:
    """A sealed list of devices, every step of it."""
    topic, words = f"{PREFIX}/s2/0/{SERVER}/{MC}/devices", f"s2-over-mqtt/0|devices|{MC}"
    key, associated = hkdf(TOKEN, SALT, words.encode("ascii")), associated_data(topic, "devices", 1)
    devices = [{"id": CLIENT, "name": "W\u00e4rmepumpe", "brand": "Acme"}]
    payload = json.dumps({"devices": devices, "at": LISTED_AT}, separators=(",", ":"))
    return {
        "topic": topic,
        "info": words,
        "key": key.hex(),
        "associatedData": associated.hex(),
        "plaintext": payload,
        "sealed": seal(key, 1, associated, payload.encode("ascii")).hex(),
        "contentType": "application/vnd.s2-sealed",
        "userProperties": [["s2-frame", "devices"], ["s2-salt", base64.b64encode(SALT).decode()]],
    }


def vectors() -> dict[str, Any]:
    """Everything that the file holds."""
    up, down = (hkdf(TOKEN, b"", info(d).encode("ascii")) for d in ("rm2cem", "cem2rm"))
    salted = hkdf(TOKEN, SALT, info("cem2rm").encode("ascii"))
    accept = json.dumps({"sid": SID}, separators=(",", ":"))
    static_accept = json.dumps({"sid": SID, "version": VERSIONS[0]}, separators=(",", ":"))
    return {
        "about": "Test vectors of S2 over MQTT 5, binding 0 (s2-over-mqtt.md). Binary values are hexadecimal. Made by "
        "tests/transports/mqtt_vectors.py: HKDF and HMAC by hmac and hashlib of Python, AES-256-GCM by OpenSSL's block "
        "cipher in GCM mode; no code of s2connect takes part. The RM is the communication client.",
        "session": {
            "topicPrefix": PREFIX,
            "server": SERVER,
            "client": CLIENT,
            "clientRole": "RM",
            "mc": MC,
            "sid": SID,
            "boot": BOOT,
            "token": TOKEN.hex(),
            "sessionToken": base64.b64encode(TOKEN).decode(),
            "version": VERSIONS[0],
            "staticVersions": VERSIONS,
            "staticSalt": SALT.hex(),
        },
        "topics": {
            "open": f"{PREFIX}/s2/0/{SERVER}/open",
            "rm2cem": session_topic("rm2cem"),
            "cem2rm": session_topic("cem2rm"),
            "presence": f"{PREFIX}/s2/0/presence/{MC}",
            "inboundOfClient": f"{PREFIX}/s2/0/+/{MC}/+/+/cem2rm",
        },
        "keys": [key_entry(d, salt) for salt in (b"", SALT) for d in ("rm2cem", "cem2rm")],
        "open": opening([]),
        "staticOpen": opening(VERSIONS),
        "frames": [
            frame(down, "cem2rm", "accept", 1, accept),
            frame(up, "rm2cem", "data", 1, DATA),
            frame(up, "rm2cem", "ping", 2, "{}"),
            frame(down, "cem2rm", "pong", 2, "{}"),
            frame(down, "cem2rm", "data", 3, DATA),
            frame(up, "rm2cem", "close", 3, '{"reason":"reconnect","after":2.5}'),
            frame(up, "rm2cem", "data", 4294967294, DATA),
        ],
        "staticAccept": frame(salted, "cem2rm", "accept", 1, static_accept, salt=SALT),
        "devices": device_list(),
        "received": refused(up, down),
    }


def text() -> str:
    """The file."""
    return json.dumps(vectors(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), "utf-8")
