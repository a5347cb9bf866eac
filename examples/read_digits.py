"""An app that embeds the exported MNIST ODE-Net: NumPy and onnxruntime, no PyTorch.

    odedeploy export mnist-odenet --tol 1e-2 -o mnist.onnx
    python read_digits.py mnist.onnx [digits.npy]

digits.npy holds images, (n, 28, 28) uint8; without it the golden inputs in the file are read.
"""

import sys
import time

import numpy as np

import odedeploy

SHADES = " .:-=+*#%@"


def main(file, digits=None):
    model = odedeploy.load(file, threads=1)
    if digits is None:
        images = model.golden.inputs["image"]
    else:
        images = np.load(digits)[:, None].astype(np.float32) / 255
    model(images[:1])
    for image in images:
        began = time.perf_counter()
        logits = model(image[None])[0]
        milliseconds = 1e3 * (time.perf_counter() - began)
        for row in image[0, ::2]:
            print("".join(SHADES[int(9 * shade)] for shade in row))
        share = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        print(f"is a {logits.argmax()} ({share.max():.1%}), read in {milliseconds:.1f} ms\n")
    print(model.manifest.promise)


if __name__ == "__main__":
    main(*sys.argv[1:])
