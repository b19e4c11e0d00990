// Checks one AsyncAPI file with AsyncAPI's own parser. Prints what it says; the exit status is 1 where it is not valid.
// Usage: node asyncapi_check.mjs DIRECTORY_WITH_NODE_MODULES FILE
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

const [home, file] = process.argv.slice(2);
const { Parser } = createRequire(join(resolve(home), "x.js"))("@asyncapi/parser");
const { document, diagnostics } = await new Parser().parse(readFileSync(file, "utf-8"));
for (const { severity, message, path, range } of diagnostics) {
  console.log(`${["error", "warning", "info", "hint"][severity]} line ${range.start.line + 1} ${path.join(".")}: ${message}`);
}
if (document === undefined || diagnostics.some(({ severity }) => severity <= 1)) process.exit(1);
console.log(`valid: ${document.channels().all().map((channel) => channel.address()).join(" ")}`);
