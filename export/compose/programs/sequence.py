"""Triton Python model: keeps the state of each sequence between requests and asks the step model for each answer.

It runs inside Triton and imports nothing of Sluice.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    """One instance. The sequence batcher sends all requests of one sequence to the instance that saw its start."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read which step model to ask, and which of its outputs feeds which of its inputs."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.step, self.version = parameters["step_model"], int(parameters["step_version"])
        self.states = json.loads(parameters["states"])
        self.inputs = [item["name"] for item in config["input"]]
        self.outputs = [item["name"] for item in config["output"]]
        self.kept: dict[int, dict[str, Any]] = {}

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Requests of different sequences, in the order the batcher chose."""
        return [self._one(request) for request in requests]

    def _one(self, request: Any) -> Any:
        sequence = self._control(request, "CORRID")
        if self._control(request, "START") or sequence not in self.kept:
            shapes = {state["input"]: state for state in self.states}
            self.kept[sequence] = {n: np.zeros([1, *s["dims"]], np.dtype(s["dtype"])) for n, s in shapes.items()}
        kept = self.kept[sequence]
        tensors = [pb.get_input_tensor_by_name(request, name) for name in self.inputs]
        answer = pb.InferenceRequest(
            model_name=self.step,
            model_version=self.version,
            requested_output_names=[*self.outputs, *(state["output"] for state in self.states)],
            inputs=[*tensors, *(pb.Tensor(name, value) for name, value in kept.items())],
            preferred_memory=pb.PreferredMemory(pb.TRITONSERVER_MEMORY_CPU, 0),
        ).exec()
        if answer.has_error():
            return pb.InferenceResponse(error=answer.error())
        for state in self.states:
            kept[state["input"]] = pb.get_output_tensor_by_name(answer, state["output"]).as_numpy()
        if self._control(request, "END"):
            del self.kept[sequence]
        return pb.InferenceResponse([pb.get_output_tensor_by_name(answer, name) for name in self.outputs])

    @staticmethod
    def _control(request: Any, name: str) -> Any:
        return pb.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)[0].item()
