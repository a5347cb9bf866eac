// onnxruntime-web's WebAssembly, in a page of a headless Chromium.

import { randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const HERE = dirname(fileURLToPath(import.meta.url));
const OWN = ['page.html', 'page.mjs', 'sessions.mjs', 'tensors.mjs'];
const ORT = ['ort.wasm.min.mjs', 'ort-wasm-simd-threaded.mjs', 'ort-wasm-simd-threaded.wasm'];
const TYPES = { html: 'text/html', mjs: 'text/javascript', wasm: 'application/wasm' };

// A page that is isolated from other origins has the finer clock, of 5 microseconds.
const HEADERS = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
};

const PATIENCE = 100_000; // milliseconds
const TURNS = 100; // most trials of telling processes apart

export async function start(modules, program) {
  const served = new Map([
    ...OWN.map((name) => [name, join(HERE, name)]),
    ...ORT.map((name) => [name, join(modules, 'onnxruntime-web', 'dist', name)]),
  ]);
  const { address, server } = await serve(served);
  const { chromium } = createRequire(import.meta.url)(join(modules, 'playwright-core'));
  const browser = await chromium.launch({
    executablePath: program, timeout: PATIENCE, handleSIGINT: false, args: ['--disable-gpu'],
  });
  const page = await browser.newPage();
  page.on('crash', () => fail('The page crashed.'));
  page.on('console', (message) => console.error(message.text()));
  page.on('pageerror', (error) => console.error(error.message));
  await page.goto(address + 'page.html', { timeout: PATIENCE });
  await page.waitForFunction('globalThis.answer', null, { timeout: PATIENCE });
  return {
    process: await renderer(browser, page),
    versions: { chromium: browser.version() },
    answer: async (request) => {
      const name = `${request.id}.onnx`;
      if (request.do === 'open') served.set(name, request.path);
      try {
        const text = JSON.stringify({ ...request, name });
        return JSON.parse(await page.evaluate((asked) => globalThis.answer(asked), text));
      } finally {
        served.delete(name);
      }
    },
    close: async () => {
      await browser.close();
      server.close();
    },
  };
}

// A server for this machine alone, at an address that cannot be guessed, of the files in `served`.
async function serve(served) {
  const prefix = `/${randomUUID()}/`;
  const server = createServer((request, response) => {
    const name = request.url.startsWith(prefix) ? request.url.slice(prefix.length) : '';
    const path = served.get(name);
    if (path === undefined) return response.writeHead(404).end();
    const type = TYPES[name.split('.').pop()] ?? 'application/octet-stream';
    response.writeHead(200, { ...HEADERS, 'Content-Type': type });
    return createReadStream(path).on('error', () => response.destroy()).pipe(response);
  });
  await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  return { address: `http://127.0.0.1:${server.address().port}${prefix}`, server };
}

// The process of the page. The browser's own pages have theirs, which may work as well, so it is
// the one that works when the page is kept busy and rests when that rests.
async function renderer(browser, page) {
  const session = await browser.newBrowserCDPSession();
  const worked = new Map(); // seconds by process: while the page is busy, while it rests
  async function spend(which, work) {
    const before = await times(session);
    await page.evaluate(work);
    for (const [id, time] of await times(session)) {
      if (!worked.has(id)) worked.set(id, { busy: 0, idle: 0 });
      worked.get(id)[which] += time - (before.get(id) ?? 0);
    }
  }
  for (let turn = 0; turn < TURNS; turn += 1) {
    await spend('busy', () => { for (const end = performance.now() + 40; performance.now() < end;); });
    await spend('idle', () => new Promise((resolve) => { setTimeout(resolve, 40); }));
    const [[id, most], [, next] = [0, { busy: 0, idle: 0 }]] = [...worked]
      .sort(([, a], [, b]) => b.busy - b.idle - (a.busy - a.idle));
    if (most.busy > 0.25 && most.busy > 5 * most.idle && most.busy > 5 * (next.busy - next.idle)) {
      return id;
    }
  }
  throw new Error('the process of the page is not to be told from the others');
}

// Seconds of processor time by process.
async function times(session) {
  const { processInfo } = await session.send('SystemInfo.getProcessInfo');
  const found = processInfo.filter(({ type }) => type === 'renderer');
  return new Map(found.map(({ id, cpuTime }) => [id, cpuTime]));
}

function fail(words) {
  console.error(words);
  process.exit(1);
}
