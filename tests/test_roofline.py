from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from odedeploy import roofline


def model(*nodes: onnx.NodeProto, out: str, **weights: np.ndarray) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8, 6, 6])
    y = helper.make_tensor_value_info(out, TensorProto.FLOAT, None)
    held = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(list(nodes), "g", [x], [y], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


CONVOLVED = model(
    helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
    helper.make_node("Flatten", ["a"], ["b"]),
    helper.make_node("MatMul", ["b", "v"], ["c"]),
    helper.make_node("Tanh", ["c"], ["y"]),
    out="y",
    w=np.zeros((4, 8, 3, 3), np.float32),
    v=np.zeros((144, 10), np.float32),
)


def test_work_of_a_convolution_and_a_product() -> None:
    work = roofline.work_of(CONVOLVED)
    assert work is not None
    convolution, product, tanh = 2 * 144 * 72, 2 * 144 * 10, 10
    assert work.operations == convolution + product + tanh
    assert work.weights == 4 * (288 + 1440)
    assert work.bytes == 4 * ((288 + 288 + 144) + (144 + 1440 + 10) + 20)
    assert work.largest == 4 * (144 + 1440 + 10)
    assert roofline.Work.from_json(work.to_json()) == work


def test_an_estimate_is_the_slower_of_arithmetic_and_memory() -> None:
    work = roofline.Work(((1000, 10, 2), (10, 1000, 1)), 500, 1000)
    device = roofline.Device("d", 1e3, 1e2, 1e6, "")
    assert roofline.estimate(work, device) == pytest.approx(2.01)
    small = replace(device, cache=1499.0)
    assert roofline.estimate(work, small) == pytest.approx(2 * 1.0 + 10.0)


def test_shapes_that_are_not_known_give_no_estimate() -> None:
    steps = helper.make_node("NonZero", ["x"], ["y"])
    tail = helper.make_node("Transpose", ["y"], ["z"])
    assert roofline.work_of(model(steps, tail, out="z")) is None


def test_every_device_has_a_source_and_an_estimate() -> None:
    work = roofline.work_of(CONVOLVED)
    assert work is not None
    found = roofline.estimates(work)
    assert list(found) == [*(device.name for device in roofline.DEVICES), roofline.HERE]
    assert all(value > 0 for value in found.values())
    assert all(device.source and device.operations > 1e8 for device in roofline.DEVICES)


def test_this_machine_is_measured() -> None:
    here = roofline.this_machine()
    assert here is roofline.this_machine()
    assert 1e8 < here.operations < 1e14 and 1e7 < here.bandwidth < 1e13 and here.cache >= 1e4
