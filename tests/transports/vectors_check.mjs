// Runs docs/s2-over-mqtt-vectors.json with Node's own cryptography, written from docs/s2-over-mqtt.md alone: what an
// implementer in another language would do. Exit status 1 and a line for each vector that does not come out.
// Usage: node vectors_check.mjs FILE
import { createCipheriv, createDecipheriv, createHmac, hkdfSync } from "node:crypto";
import { readFileSync } from "node:fs";

const vectors = JSON.parse(readFileSync(process.argv[2], "utf-8"));
const { session, topics } = vectors;
const token = Buffer.from(session.sessionToken, "base64");
let passed = 0;
const failed = [];

function check(name, got, expected) {
  if (JSON.stringify(got) === JSON.stringify(expected)) passed += 1;
  else failed.push(`${name}: ${JSON.stringify(got)} instead of ${JSON.stringify(expected)}`);
}

function key(direction, salt) {
  const info = `s2-over-mqtt/0|${direction}|${session.sid}`;
  return Buffer.from(hkdfSync("sha256", token, salt, info, 32));
}

function nonce(seq) {
  const raw = Buffer.alloc(12);
  raw.writeBigUInt64BE(BigInt(seq), 4);
  return raw;
}

function associatedData(topic, kind, seq) {
  const place = Buffer.from(topic);
  const head = Buffer.alloc(2);
  head.writeUInt16BE(place.length);
  return Buffer.concat([head, place, Buffer.from([kind.length]), Buffer.from(kind), nonce(seq).subarray(4)]);
}

function seal(secret, topic, kind, seq, plaintext) {
  const cipher = createCipheriv("aes-256-gcm", secret, nonce(seq));
  cipher.setAAD(associatedData(topic, kind, seq));
  return Buffer.concat([cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]);
}

function unseal(secret, topic, kind, seq, sealed) {
  if (sealed.length < 16) throw new Error("too short");
  const decipher = createDecipheriv("aes-256-gcm", secret, nonce(seq), { authTagLength: 16 });
  decipher.setAAD(associatedData(topic, kind, seq));
  decipher.setAuthTag(sealed.subarray(-16));
  return Buffer.concat([decipher.update(sealed.subarray(0, -16)), decipher.final()]).toString("utf-8");
}

function frames(list, salt) {
  for (const frame of list) {
    const name = `${frame.kind} ${frame.seq}`;
    const secret = key(frame.direction, salt);
    check(`${name}: nonce`, nonce(frame.seq).toString("hex"), frame.nonce);
    const associated = associatedData(frame.topic, frame.kind, frame.seq).toString("hex");
    check(`${name}: associated data`, associated, frame.associatedData);
    const sealed = seal(secret, frame.topic, frame.kind, frame.seq, frame.plaintext);
    check(`${name}: sealed`, sealed.toString("hex"), frame.sealed);
    check(`${name}: opened`, unseal(secret, frame.topic, frame.kind, frame.seq, sealed), frame.plaintext);
  }
}

// The rules of "Order and repeats", as far as the vectors need them.
function receive(list) {
  const secret = key("rm2cem", "");
  let last = 0;
  let delivered = 0;
  for (const frame of list) {
    if (frame.topic !== topics.rm2cem) continue;
    const properties = Object.fromEntries(frame.userProperties);
    const kind = properties["s2-frame"];
    const seq = Number(properties["s2-seq"]);
    if (frame.contentType !== "application/vnd.s2-sealed") return [delivered, "protocol"];
    if (seq <= last) continue;
    if (seq !== last + 1) return [delivered, "protocol"];
    try {
      unseal(secret, frame.topic, kind, seq, Buffer.from(frame.sealed, "hex"));
    } catch {
      return [delivered, "protocol"];
    }
    last = seq;
    if (kind === "data" && properties["s2-ver"] !== session.version) return [delivered, "protocol"];
    if (kind === "data") delivered += 1;
  }
  return [delivered, null];
}

const { topicPrefix, server, client, mc, sid, boot } = session;
check("topic of open", `${topicPrefix}/s2/0/${server}/open`, topics.open);
for (const direction of ["rm2cem", "cem2rm"]) {
  check(`topic ${direction}`, `${topicPrefix}/s2/0/${server}/${mc}/${client}/${sid}/${direction}`, topics[direction]);
}
check("topic of presence", `${topicPrefix}/s2/0/presence/${mc}`, topics.presence);
for (const entry of vectors.keys) {
  check(`key ${entry.direction} ${entry.salt}`, key(entry.direction, Buffer.from(entry.salt, "hex")).toString("hex"), entry.key);
}
for (const [name, versions] of [["open", []], ["staticOpen", session.staticVersions]]) {
  const parts = [sid, mc, boot, ...(versions.length ? [versions.join(",")] : [])];
  const proof = createHmac("sha256", token).update(parts.join("|")).digest();
  check(`proof of ${name}`, proof.toString("hex"), vectors[name].proof);
  check(`payload of ${name}`, JSON.parse(vectors[name].payload).proof, proof.toString("base64"));
}
frames(vectors.frames, "");
frames([vectors.staticAccept], Buffer.from(session.staticSalt, "hex"));
{
  const { topic, info, key: derived, associatedData: associated, plaintext, sealed } = vectors.devices;
  const secret = Buffer.from(hkdfSync("sha256", token, Buffer.from(session.staticSalt, "hex"), `s2-over-mqtt/0|devices|${mc}`, 32));
  check("topic of devices", `${topicPrefix}/s2/0/${server}/${mc}/devices`, topic);
  check("info of devices", `s2-over-mqtt/0|devices|${mc}`, info);
  check("key of devices", secret.toString("hex"), derived);
  check("associated data of devices", associatedData(topic, "devices", 1).toString("hex"), associated);
  check("devices: sealed", seal(secret, topic, "devices", 1, plaintext).toString("hex"), sealed);
  check("devices: opened", unseal(secret, topic, "devices", 1, Buffer.from(sealed, "hex")), plaintext);
}
for (const { name, frames: list, delivered, closesWith } of vectors.received) {
  check(name, receive(list), [delivered, closesWith]);
}
console.log([...failed, `${passed} passed, ${failed.length} failed`].join("\n"));
process.exit(failed.length ? 1 : 0);
