"""Drives the gateway, and Triton, with unmodified tritonclient."""

import itertools
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
from tritonclient import http
from tritonclient.utils import InferenceServerException

from gateway.demo.commands import Deadline
from gateway.demo.digits import INPUT, LABEL, LOGITS, Digits, Pixels

_BATCH = 54  # a tenth of the held-out rows, and below the models' largest batch


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered request of one row.

    Attributes:
        version: the model version that answered, as Triton says in the answer.
        seconds: duration as the client sees it.
        correct: whether the label is the true one.
    """

    version: str
    seconds: float
    correct: bool


@dataclass(frozen=True, slots=True)
class Traffic:
    """What came back: the answers, the errors' texts, and how long it all took."""

    answers: list[Answer]
    errors: list[str]
    seconds: float


def _client(url: str) -> http.InferenceServerClient:
    return http.InferenceServerClient(urlsplit(url).netloc)


def _request(rows: Pixels) -> list[http.InferInput]:
    tensor = http.InferInput(INPUT, list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    return [tensor]


def drive(
    url: str,
    route: str,
    digits: Digits,
    *,
    requests: int,
    concurrency: int,
    seed: int,
    deadline: Deadline,
    progress: Callable[[], None],
) -> Traffic:
    """Send single rows, chosen by a seeded generator, over `concurrency` connections at once.

    Args:
        url: base URL of the gateway.
        route: name that is asked for.
        digits: where rows and true labels come from.
        requests: how many.
        concurrency: connections, each with one request under way.
        seed: of the choice of rows.
        deadline: no request is begun after it.
        progress: called after each answer, from any thread.

    Raises:
        UnreachableError: the deadline has passed.
    """
    rows = random.Random(seed).choices(range(len(digits.labels)), k=requests)
    turn = itertools.count()
    lock = threading.Lock()

    def one_connection() -> Traffic:
        answers: list[Answer] = []
        errors: list[str] = []
        with _client(url) as client:
            while True:
                with lock:
                    index = next(turn)
                if index >= requests:
                    return Traffic(answers, errors, 0.0)
                deadline.left("sending digits")
                row = rows[index]
                request = _request(digits.pixels[row : row + 1])
                began = time.perf_counter()
                try:
                    result = client.infer(route, request)
                except (InferenceServerException, OSError) as error:
                    errors.append(str(error))
                else:
                    seconds = time.perf_counter() - began
                    correct = int(result.as_numpy(LABEL)[0, 0]) == int(digits.labels[row])
                    answers.append(Answer(result.get_response()["model_version"], seconds, correct))
                progress()

    began = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        parts = [future.result() for future in [pool.submit(one_connection) for _ in range(concurrency)]]
    return Traffic(
        [answer for part in parts for answer in part.answers],
        [error for part in parts for error in part.errors],
        time.perf_counter() - began,
    )


def accuracy(url: str, route: str, variant: str, digits: Digits) -> float:
    """Share of all held-out rows that one variant, named by header, gets right."""
    right = 0
    with _client(url) as client:
        for start in range(0, len(digits.labels), _BATCH):
            request = _request(digits.pixels[start : start + _BATCH])
            result = client.infer(route, request, headers={"x-sluice-variant": variant})
            right += int(np.sum(result.as_numpy(LABEL)[:, 0] == digits.labels[start : start + _BATCH]))
    return right / len(digits.labels)


def same_bits(gateway: str, route: str, variant: str, triton: str, model: str, version: str, digits: Digits) -> bool:
    """Whether the gateway's answer for one batch equals the one of Triton itself, to the last bit."""
    request = _request(digits.pixels[:_BATCH])
    with _client(gateway) as through, _client(triton) as direct:
        ours = through.infer(route, request, headers={"x-sluice-variant": variant})
        theirs = direct.infer(model, request, model_version=version)
        return all(ours.as_numpy(name).tobytes() == theirs.as_numpy(name).tobytes() for name in (LABEL, LOGITS))
