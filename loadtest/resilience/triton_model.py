"""The model `m` of the real Tritons: gives back what it gets, after five milliseconds."""

import time
from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What Triton's Python backend looks for."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """One answer for each request."""
        answers = []
        for request in requests:
            time.sleep(0.005)
            x = pb_utils.get_input_tensor_by_name(request, "x")
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", x.as_numpy())]))
        return answers
