// The files that are open in one onnxruntime: run, and timed by the clock of where they run.

import { pack, unpack } from './tensors.mjs';

export class Sessions {
  // `ort` is the module of onnxruntime, `source` gives what it opens for a request.
  constructor(ort, source, options) {
    Object.assign(this, { ort, source, options, files: new Map() });
  }

  async open(request) {
    for (const id of request.dropped) {
      await this.files.get(id)?.session.release();
      this.files.delete(id);
    }
    const source = await this.source(request);
    const threads = request.threads === null ? {} : {
      intraOpNumThreads: request.threads, interOpNumThreads: 1,
    };
    const began = performance.now();
    const session = await this.ort.InferenceSession.create(source, { ...this.options, ...threads });
    this.files.set(request.id, { session, queries: [], turn: 0 });
    return { load_ms: performance.now() - began };
  }

  async run({ id, inputs }) {
    const { session } = this.files.get(id);
    return { outputs: packed(await session.run(this.feed(inputs))) };
  }

  hold({ id, queries }) {
    Object.assign(this.files.get(id), { queries: queries.map((q) => this.feed(q)), turn: 0 });
    return {};
  }

  async time({ id, ms, least }) {
    const held = this.files.get(id);
    const { session, queries } = held;
    const ns = [];
    let outputs;
    for (const end = performance.now() + ms; ns.length < least || performance.now() < end;) {
      const feed = queries[held.turn];
      held.turn = (held.turn + 1) % queries.length;
      const began = performance.now();
      outputs = await session.run(feed);
      ns.push(Math.round(1e6 * (performance.now() - began)));
    }
    return { ns, outputs: packed(outputs) };
  }

  feed(inputs) {
    const tensors = Object.entries(inputs).map(([n, t]) => [n, unpack(this.ort.Tensor, t)]);
    return Object.fromEntries(tensors);
  }
}

function packed(outputs) {
  return Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, pack(tensor)]));
}
