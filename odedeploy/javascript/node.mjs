// onnxruntime-node, in this process.

import { createRequire } from 'node:module';
import { join } from 'node:path';

import { Sessions } from './sessions.mjs';

export async function start(modules) {
  const require = createRequire(import.meta.url);
  const ort = require(join(modules, 'onnxruntime-node'));
  const sessions = new Sessions(ort, ({ path }) => path, { logSeverityLevel: 4 });
  return {
    process: process.pid,
    versions: { node: process.versions.node },
    answer: (request) => sessions[request.do](request),
    close: async () => {},
  };
}
