// node host.mjs ENGINE PACKAGE NODE_MODULES [BROWSER]: an engine that answers a line of JSON with another.
//
// It ends with its stdin. What libraries print goes to stderr.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

console.log = console.error;
process.on('SIGINT', () => {}); // it is for the parent, which ends stdin

const [name, runtime, modules, browser] = process.argv.slice(2);
let engine;

async function begin() {
  engine = await (await import(`./${name}.mjs`)).start(modules, browser);
  const described = readFileSync(join(modules, runtime, 'package.json'), 'utf8');
  const versions = { [runtime]: JSON.parse(described).version, ...engine.versions };
  return { process: engine.process, versions };
}

async function answer(request) {
  if (request.do === 'start') return begin();
  const base = request.do === 'open' ? { base_mb: resident(engine.process) } : {};
  return { ...base, ...await engine.answer(request) };
}

// Memory of a process in megabytes, null where the system does not tell.
function resident(id) {
  try {
    const [, kilobytes] = /^VmRSS:\s*(\d+)/m.exec(readFileSync(`/proc/${id}/status`, 'utf8'));
    return kilobytes * 1024 / 1e6;
  } catch {
    return null;
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  let found;
  try {
    found = await answer(JSON.parse(line));
  } catch (error) {
    found = { error: error?.message ?? String(error) };
  }
  process.stdout.write(`${JSON.stringify(found)}\n`);
}
await engine?.close();
process.exit(0);
