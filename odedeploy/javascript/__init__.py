"""ONNX files in the JavaScript builds of onnxruntime, each engine in a process of its own.

The engine ``node`` is onnxruntime-node in node, ``wasm`` is onnxruntime-web's WebAssembly in a page
of a headless Chromium. A new engine is one entry in ``installation.ENGINES`` and one ``.mjs`` file
of its name, which starts it.
"""
