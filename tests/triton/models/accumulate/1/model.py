"""Sums the values of each sequence, from START to END, in this one process's memory."""

import os

import numpy as np
import triton_python_backend_utils as pb


def _item(request, name):
    tensor = pb.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy().reshape(-1)[0]


class TritonPythonModel:
    """Keeps (sum, count) by correlation id; SERVER tells which process answered."""

    def initialize(self, args):
        """Start with no sequence."""
        self._sums = {}
        self._server = f"{args['model_name']}/{args['model_version']}@{os.getppid()}".encode()

    def execute(self, requests):
        """Answer the running sum and how many requests the sequence has had."""
        return [self._step(request) for request in requests]

    def _step(self, request):
        key = _item(request, "CORRID")  # None where an instance has one sequence at a time
        total, count = (0, 0) if _item(request, "START") else self._sums.get(key, (0, 0))
        total, count = total + int(_item(request, "VALUE")), count + 1
        if _item(request, "END"):
            self._sums.pop(key, None)
        else:
            self._sums[key] = (total, count)
        return pb.InferenceResponse(
            [
                pb.Tensor("SUM", np.array([[total]], np.int32)),
                pb.Tensor("COUNT", np.array([[count]], np.int32)),
                pb.Tensor("SERVER", np.array([[self._server]], np.object_)),
            ]
        )
