"""Takes as long as its input says; EXECUTED counts what this instance has executed."""

import time

import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    """Sleeps, then answers."""

    def initialize(self, args):
        """Start counting."""
        self._executed = 0

    def execute(self, requests):
        """Sleep DELAY_MS for each request."""
        responses = []
        for request in requests:
            delay = pb.get_input_tensor_by_name(request, "DELAY_MS").as_numpy()
            time.sleep(int(delay[0]) / 1000)
            self._executed += 1
            executed = np.array([self._executed], np.int32)
            responses.append(pb.InferenceResponse([pb.Tensor("WAITED_MS", delay), pb.Tensor("EXECUTED", executed)]))
        return responses
