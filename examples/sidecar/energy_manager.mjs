// An energy manager in JavaScript: `s2connect serve --json` speaks S2 Connect for it (Node.js 18 and later, no packages).
//
//     s2connect init --home ems --role cem --name House
//     node examples/sidecar/energy_manager.mjs ems
//
// It shows URL and code, selects control by fill rate for every device that offers it, and prints what it gets.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

const home = process.argv[2] ?? "ems";
const sidecar = spawn("s2connect", ["serve", "--json", "--home", home], { stdio: ["pipe", "pipe", "inherit"] });
sidecar.on("error", (error) => console.error(`s2connect cannot be started: ${error.message}`));
sidecar.on("exit", (code) => process.exit(code ?? 1));

// One command a line; the result has the id of its command.
let last = 0;
const waiting = new Map();

function command(name, fields) {
  const id = ++last;
  sidecar.stdin.write(JSON.stringify({ id, command: name, ...fields }) + "\n");
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

function finish(result) {
  const { resolve, reject } = waiting.get(result.id) ?? {};
  waiting.delete(result.id);
  if (result.ok) resolve?.(result);
  else reject?.(new Error(`${result.error.what} ${result.error.hint}`));
}

const devices = new Map(); // name of each device, by session
const nameOf = (peer) => peer.user_defined_name ?? `${peer.brand} ${peer.model_name}`;
let url = null;

async function received(session, message) {
  console.log(`${devices.get(session)}: ${message.message_type}`);
  if (message.message_type !== "ResourceManagerDetails") return;
  const wanted = "FILL_RATE_BASED_CONTROL";
  if (!message.available_control_types.includes(wanted)) return;
  await command("send", { session, message: { message_type: "SelectControlType", control_type: wanted } });
  console.log(`${devices.get(session)}: has taken the selection`);
}

function handle(event) {
  switch (event.event) {
    case "ready": url = event.pairing_url; break;
    case "pairing_code": console.log(`Pair at ${url} with the code ${event.code}`); break;
    case "paired": console.log(`paired with ${nameOf(event.peer)}`); break;
    case "session_opened": devices.set(event.session, nameOf(event.peer)); break;
    case "session_closed": devices.delete(event.session); break;
    case "result": finish(event); break;
    case "warning": console.error(`warning: ${event.text ?? event.reason}`); break;
    case "message":
      if (event.direction === "received") received(event.session, event.message).catch((error) => console.error(error.message));
  }
}

createInterface({ input: sidecar.stdout }).on("line", (line) => handle(JSON.parse(line)));

// The end of its input stops the sidecar: it closes the sessions, then ends.
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => sidecar.stdin.end());
