"""Returns its tensor, of any size, as it came."""

import triton_python_backend_utils as pb


class TritonPythonModel:
    """Identity."""

    def execute(self, requests):
        """Echo DATA as DATA_OUT."""
        return [
            pb.InferenceResponse([pb.Tensor("DATA_OUT", pb.get_input_tensor_by_name(request, "DATA").as_numpy())])
            for request in requests
        ]
