// In the page: onnxruntime-web, asked by `answer` with JSON and answering with JSON.

import * as ort from './ort.wasm.min.mjs';
import { Sessions } from './sessions.mjs';

ort.env.logLevel = 'fatal';
ort.env.wasm.numThreads = 1;

async function source({ name }) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`the file cannot be read (${response.status})`);
  return new Uint8Array(await response.arrayBuffer());
}

const sessions = new Sessions(ort, source, { executionProviders: ['wasm'] });

globalThis.answer = async (text) => {
  const request = JSON.parse(text);
  return JSON.stringify(await sessions[request.do](request));
};
