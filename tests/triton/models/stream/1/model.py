"""Decoupled: answers one request with N responses, and with an error after FAIL_AFTER of them if that is given."""

import threading
import time

import numpy as np
import triton_python_backend_utils as pb


def _value(request, name, default):
    tensor = pb.get_input_tensor_by_name(request, name)
    return default if tensor is None else int(tensor.as_numpy().reshape(-1)[0])


def _stream(sender, count, fail_after, delay_ms, size):
    for index in range(count):
        if index == fail_after:
            sender.send(pb.InferenceResponse(error=pb.TritonError(f"asked to fail after {index} responses")))
            break
        if sender.is_cancelled():
            break
        text = f"response {index}".ljust(size, ".").encode()
        tensors = [pb.Tensor("INDEX", np.array([index], np.int32)), pb.Tensor("TEXT", np.array([text], np.object_))]
        sender.send(pb.InferenceResponse(tensors))
        time.sleep(delay_ms / 1000)
    sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class TritonPythonModel:
    """Each request streams from a thread of its own."""

    def execute(self, requests):
        """Start the streams; SIZE is the least length of TEXT, DELAY_MS the pause after each response."""
        for request in requests:
            arguments = (
                request.get_response_sender(),
                _value(request, "N", 1),
                _value(request, "FAIL_AFTER", -1),
                _value(request, "DELAY_MS", 0),
                _value(request, "SIZE", 0),
            )
            threading.Thread(target=_stream, args=arguments, daemon=True).start()
