"""Returns its BYTES elements as they came, valid UTF-8 or not."""

import triton_python_backend_utils as pb


class TritonPythonModel:
    """Identity."""

    def execute(self, requests):
        """Echo TEXT as TEXT_OUT."""
        return [
            pb.InferenceResponse([pb.Tensor("TEXT_OUT", pb.get_input_tensor_by_name(request, "TEXT").as_numpy())])
            for request in requests
        ]
