"""Fails on demand."""

import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    """Answers OK, or an error when FAIL is true."""

    def execute(self, requests):
        """Fail the requests that ask for it."""
        responses = []
        for request in requests:
            if pb.get_input_tensor_by_name(request, "FAIL").as_numpy()[0]:
                responses.append(pb.InferenceResponse(error=pb.TritonError("asked to fail")))
            else:
                responses.append(pb.InferenceResponse([pb.Tensor("OK", np.array([True]))]))
        return responses
