// Tensors from and to JSON, in node and in a page.

const ARRAYS = {
  float32: Float32Array, float64: Float64Array, bool: Uint8Array, float16: Uint16Array,
  int8: Int8Array, int16: Int16Array, int32: Int32Array, int64: BigInt64Array,
  uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, uint64: BigUint64Array,
};

const CHUNK = 0x8000; // arguments that a function may have

export function unpack(Tensor, { type, dims, data }) {
  return new Tensor(type, new ARRAYS[type](bytes(data).buffer), dims);
}

export function pack({ type, dims, data }) {
  return { type, dims, data: text(new Uint8Array(data.buffer, data.byteOffset, data.byteLength)) };
}

function bytes(base64) {
  if (globalThis.Buffer) return new Uint8Array(Buffer.from(base64, 'base64'));
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

function text(array) {
  if (globalThis.Buffer) return Buffer.from(array).toString('base64');
  let characters = '';
  for (let at = 0; at < array.length; at += CHUNK) {
    characters += String.fromCharCode(...array.subarray(at, at + CHUNK));
  }
  return btoa(characters);
}
