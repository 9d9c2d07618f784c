"""The V2 contract through the gateway: unmodified clients, real Triton, and answers equal to asking Triton itself."""

import asyncio
import gzip
import http.client
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from gateway.localtriton.server import LocalTriton
from tests.triton.gateway import Gateway, eventually, route, serving

ROUTES = [
    route("adder", "add_sub"),
    route("halves", "half"),
    route("texts", "bytes_identity"),
    route("types", "every_type"),
    route("pair", "ensemble"),
    route("big", "large_identity"),
    route("streams", "stream"),
    route("slowly", "slow"),
    route("sums", "accumulate"),
    route("sums_text", "accumulate_text"),
    route("fails", "failing"),
    route("split", "versioned", 60, 40, 0, sticky_header="x-user"),
    route("open", "add_sub", expose=["repository", "shared_memory", "trace", "logging"]),
    route("budget", "add_sub", triton_timeout=True),
]


@pytest.fixture(scope="module")
def gateway(triton: LocalTriton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The gateway with a route for each kind of model."""
    with serving(tmp_path_factory.mktemp("contract"), [triton.http_url], ROUTES) as running:
        yield running


def address(url: str) -> str:
    return url.removeprefix("http://")


def adder_inputs(binary: bool, rows: int = 1) -> tuple[list[Any], list[Any]]:
    values = np.arange(16 * rows, dtype=np.float32).reshape(rows, 16)
    inputs = []
    for i in (0, 1):
        tensor = triton_http.InferInput(f"INPUT{i}", [rows, 16], "FP32")
        tensor.set_data_from_numpy(values * (i + 1), binary_data=binary)
        inputs.append(tensor)
    return inputs, [triton_http.InferRequestedOutput(f"OUTPUT{i}", binary_data=binary) for i in (0, 1)]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_tritonclient_gets_what_triton_answers(
    gateway: Gateway, triton: LocalTriton, binary: bool, compression: str | None
) -> None:
    """The sync client, unmodified, in JSON and binary, compressed both ways or not, gets the same bits."""
    inputs, outputs = adder_inputs(binary, 3)
    found = []
    for where, model in ((gateway.address, "adder"), (address(triton.http_url), "add_sub")):
        with triton_http.InferenceServerClient(where) as client:
            found.append(
                client.infer(
                    model,
                    inputs,
                    outputs=outputs,
                    request_id="42",
                    request_compression_algorithm=compression,
                    response_compression_algorithm=compression,
                )
            )
    through, direct = found
    assert through.get_response()["id"] == "42"
    for name in ("OUTPUT0", "OUTPUT1"):
        assert through.as_numpy(name).tobytes() == direct.as_numpy(name).tobytes()


async def test_the_async_client_works_unmodified(gateway: Gateway, triton: LocalTriton) -> None:
    """The aio client, many requests at once over several connections."""
    inputs, outputs = adder_inputs(True)
    async with triton_aio.InferenceServerClient(gateway.address, conn_limit=8) as client:
        answers = await asyncio.gather(*(client.infer("adder", inputs, outputs=outputs) for _ in range(64)))
    expected = np.arange(16, dtype=np.float32) * 3
    assert all((answer.as_numpy("OUTPUT0") == expected).all() for answer in answers)


@pytest.mark.parametrize(
    ("path", "model_path"),
    [
        ("/v2/models/adder/infer", "/v2/models/add_sub/infer"),
        ("/v2/models/adder/versions/1/infer", "/v2/models/add_sub/versions/1/infer"),
    ],
)
def test_bodies_are_equal_byte_by_byte(gateway: Gateway, triton: LocalTriton, path: str, model_path: str) -> None:
    """The body that comes back is Triton's own, with and without /versions."""
    inputs, outputs = adder_inputs(True, 2)
    body, length = triton_http.InferenceServerClient.generate_request_body(inputs, outputs=outputs)
    headers = {"Inference-Header-Content-Length": str(length)}
    through = httpx.post(gateway.url + path, content=body, headers=headers, trust_env=False)
    direct = httpx.post(triton.http_url + model_path, content=body, headers=headers, trust_env=False)
    assert (through.status_code, through.content) == (direct.status_code, direct.content)
    key = "inference-header-content-length"
    assert through.headers[key] == direct.headers[key]
    assert through.headers["content-type"] == direct.headers["content-type"]
    assert through.headers["x-sluice-route"] == "adder"
    assert through.headers["x-sluice-variant"] == "v1"
    assert through.headers["x-request-id"]
    parts = dict(part.strip().split(";dur=") for part in through.headers["server-timing"].split(","))
    assert float(parts["upstream"]) > 0
    assert float(parts["gateway"]) >= 0


def test_every_type_passes(gateway: Gateway, triton: LocalTriton) -> None:
    """FP16, BYTES and every other element type survive in binary, bit by bit."""
    with triton_http.InferenceServerClient(address(triton.http_url)) as client:
        metadata = client.get_model_metadata("every_type")
    inputs = []
    for tensor in metadata["inputs"]:
        kind = tensor["datatype"]
        dtype = {"BYTES": np.object_, "BOOL": np.bool_, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64}
        value = (
            np.array([[b"a\x00b", "ü".encode()]], np.object_)
            if kind == "BYTES"
            else np.array([[1, 0]], dtype.get(kind, kind.lower()))
        )
        given = triton_http.InferInput(tensor["name"], [1, 2], kind)
        given.set_data_from_numpy(value)
        inputs.append(given)
    body, length = triton_http.InferenceServerClient.generate_request_body(inputs)
    headers = {"Inference-Header-Content-Length": str(length)}
    answers = [
        httpx.post(url, content=body, headers=headers, trust_env=False)
        for url in (f"{gateway.url}/v2/models/types/infer", f"{triton.http_url}/v2/models/every_type/infer")
    ]
    assert answers[0].status_code == 200
    assert answers[0].content == answers[1].content


def test_half_precision_text_and_ensemble(gateway: Gateway) -> None:
    """FP16 tensors, strings in JSON, and an ensemble through their routes."""
    with triton_http.InferenceServerClient(gateway.address) as client:
        half = triton_http.InferInput("X", [2, 4], "FP16")
        half.set_data_from_numpy(np.full((2, 4), 1.5, np.float16))
        assert (client.infer("halves", [half]).as_numpy("Y") == np.float16(3)).all()
        text = triton_http.InferInput("TEXT", [1, 2], "BYTES")
        text.set_data_from_numpy(np.array([["grüße", "x" * 100_000]], np.object_), binary_data=False)
        assert client.infer("texts", [text]).as_numpy("TEXT_OUT")[0, 0].decode() == "grüße"
        values = np.arange(16, dtype=np.float32).reshape(1, 16)
        pair = []
        for name in "AB":
            pair.append(triton_http.InferInput(name, [1, 16], "FP32"))
            pair[-1].set_data_from_numpy(values)
        assert (client.infer("pair", pair).as_numpy("TWICE_A") == 2 * values).all()


def test_a_large_tensor_streams_through(gateway: Gateway) -> None:
    """24 MB there and back come out equal."""
    data = np.random.default_rng(7).random((2000, 3000), np.float32)
    tensor = triton_http.InferInput("DATA", list(data.shape), "FP32")
    tensor.set_data_from_numpy(data)
    with triton_http.InferenceServerClient(gateway.address) as client:
        assert client.infer("big", [tensor]).as_numpy("DATA_OUT").tobytes() == data.tobytes()


def test_health_and_metadata_speak_for_the_route(gateway: Gateway) -> None:
    """Live, ready, model ready, metadata, config and statistics come under the route's name."""
    with triton_http.InferenceServerClient(gateway.address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("split")
        assert client.is_model_ready("split", "3")
        assert not client.is_model_ready("split", "9")
        assert "sequence" in client.get_server_metadata()["extensions"]
        metadata = client.get_model_metadata("split")
        assert (metadata["name"], metadata["versions"]) == ("split", ["1", "2", "3"])
        assert [tensor["name"] for tensor in metadata["inputs"]] == ["X"]
        config = client.get_model_config("split")
        assert (config["name"], config["max_batch_size"]) == ("split", 64)
        rows = client.get_inference_statistics("split")["model_stats"]
        assert {(row["name"], row["version"]) for row in rows} == {("split", "1"), ("split", "2")}
        everything = client.get_inference_statistics()["model_stats"]
        assert {"adder", "split", "texts"} <= {row["name"] for row in everything}


@pytest.mark.parametrize("path", ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/adder"])
def test_head_is_get_without_its_body(gateway: Gateway, path: str) -> None:
    """HEAD answers GET's status and length with an empty body, and the connection lives on."""
    with httpx.Client(base_url=gateway.url, trust_env=False) as client:
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"")
        assert head.headers["content-length"] == got.headers["content-length"]


def split_request(x: float = 0.0) -> dict[str, Any]:
    return {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 4], "data": [x] * 4}]}


def test_traffic_splits_by_weight(gateway: Gateway) -> None:
    """600 requests at 60 to 40: the share lies within six standard deviations, and each answer fits its header."""
    seen: Counter[str] = Counter()
    with httpx.Client(base_url=gateway.url, trust_env=False) as client:
        for _ in range(600):
            answer = client.post("/v2/models/split/infer", json=split_request())
            variant = answer.headers["x-sluice-variant"]
            assert answer.json()["outputs"][0]["data"][0] == float(variant[1:])
            seen[variant] += 1
    assert abs(seen["v1"] - 360) < 6 * (600 * 0.6 * 0.4) ** 0.5
    assert seen["v3"] == 0


def test_a_sticky_key_stays(gateway: Gateway) -> None:
    """Requests with one key get one variant at every worker; many keys get both."""
    variants = {}
    for user in range(40):
        with httpx.Client(base_url=gateway.url, trust_env=False, headers={"x-user": f"user-{user}"}) as client:
            found = {
                client.post("/v2/models/split/infer", json=split_request()).headers["x-sluice-variant"]
                for _ in range(3)
            }
        assert len(found) == 1
        variants[user] = found.pop()
    assert set(variants.values()) == {"v1", "v2"}


def test_a_client_can_name_variant_and_version(gateway: Gateway) -> None:
    """The variant header and /versions/N pin a request; unknown ones are 404 in Triton's error shape."""
    url = f"{gateway.url}/v2/models/split"
    named = httpx.post(f"{url}/infer", json=split_request(), headers={"x-sluice-variant": "v3"}, trust_env=False)
    assert named.json()["outputs"][0]["data"] == [3.0] * 4
    version = httpx.post(f"{url}/versions/3/infer", json=split_request(), trust_env=False)
    assert version.headers["x-sluice-variant"] == "v3"
    for answer in (
        httpx.post(f"{url}/infer", json=split_request(), headers={"x-sluice-variant": "nope"}, trust_env=False),
        httpx.post(f"{url}/versions/9/infer", json=split_request(), trust_env=False),
        httpx.post(f"{gateway.url}/v2/models/nope/infer", json=split_request(), trust_env=False),
    ):
        assert answer.status_code == 404
        assert list(answer.json()) == ["error"]


def test_errors_of_triton_reach_the_client(gateway: Gateway, triton: LocalTriton) -> None:
    """A malformed request and a failing model give Triton's own status and text, as an InferenceServerException."""
    bad = {"inputs": [{"name": "NOPE", "datatype": "FP32", "shape": [1, 16], "data": [0.0] * 16}]}
    through = httpx.post(f"{gateway.url}/v2/models/adder/infer", json=bad, trust_env=False)
    direct = httpx.post(f"{triton.http_url}/v2/models/add_sub/infer", json=bad, trust_env=False)
    assert (through.status_code, through.json()) == (direct.status_code, direct.json())
    fail = triton_http.InferInput("FAIL", [1], "BOOL")
    fail.set_data_from_numpy(np.array([True]))
    with (
        triton_http.InferenceServerClient(gateway.address) as client,
        pytest.raises(InferenceServerException, match="fail"),
    ):
        client.infer("fails", [fail])
    with (
        triton_http.InferenceServerClient(gateway.address) as client,
        pytest.raises(InferenceServerException, match="unknown model"),
    ):
        client.infer("nowhere", [fail])


def stream_body(**values: int) -> dict[str, Any]:
    return values


def test_generate_stream_comes_as_events(gateway: Gateway) -> None:
    """Each response of a decoupled model arrives as one event of its own."""
    with httpx.stream(
        "POST", f"{gateway.url}/v2/models/streams/generate_stream", json={"N": 5, "DELAY_MS": 20}, trust_env=False
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-sluice-variant"] == "v1"
        events = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line.startswith("data: ")]
    assert [event["INDEX"] for event in events] == [0, 1, 2, 3, 4]


def test_an_error_inside_a_stream_counts_as_an_error(gateway: Gateway) -> None:
    """Status 200 with an error event in the stream is passed on, and counted against the variant."""
    name = 'outcome="upstream_error",route="streams"'

    def errors() -> float:
        return sum(value for key, value in gateway.metrics().items() if name in key and "_total" in key)

    before = errors()
    answer = httpx.post(
        f"{gateway.url}/v2/models/streams/generate_stream", json={"N": 5, "FAIL_AFTER": 2}, trust_env=False
    )
    assert answer.status_code == 200
    assert "asked to fail" in answer.text
    assert eventually(lambda: errors() == before + 1)


def test_generate_answers_once(gateway: Gateway) -> None:
    """/generate returns one JSON object, /infer on a decoupled model Triton's own refusal."""
    answer = httpx.post(f"{gateway.url}/v2/models/streams/generate", json={"N": 1}, trust_env=False)
    assert answer.status_code == 200
    assert answer.json()["INDEX"] == 0
    body = {"inputs": [{"name": "N", "datatype": "INT32", "shape": [1], "data": [1]}]}
    assert httpx.post(f"{gateway.url}/v2/models/streams/infer", json=body, trust_env=False).status_code == 501


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/adder/load"),
        ("POST", "/v2/repository/models/adder/unload"),
        ("GET", "/v2/models/adder/trace/setting"),
    ],
)
def test_guarded_endpoints_are_closed(gateway: Gateway, method: str, path: str) -> None:
    """Repository and trace endpoints are 403 for a route whose owner did not open them."""
    answer = httpx.request(method, gateway.url + path.replace("adder", "split"), trust_env=False)
    assert answer.status_code == (200 if path == "/v2/repository/index" else 403)


def test_guarded_endpoints_are_closed_unless_a_route_opens_them(triton: LocalTriton, tmp_path: Path) -> None:
    """Without any route that opens them, all four families are 403."""
    with serving(tmp_path, [triton.http_url], [route("adder", "add_sub")], workers=1) as closed:
        for method, path in (
            ("POST", "/v2/repository/index"),
            ("GET", "/v2/systemsharedmemory/status"),
            ("POST", "/v2/systemsharedmemory/region/x/register"),
            ("GET", "/v2/cudasharedmemory/status"),
            ("GET", "/v2/trace/setting"),
            ("GET", "/v2/logging"),
        ):
            assert httpx.request(method, closed.url + path, trust_env=False).status_code == 403, path


def test_an_owner_can_open_guarded_endpoints(gateway: Gateway) -> None:
    """With `expose`, the administrative part of tritonclient works by route name."""
    with triton_http.InferenceServerClient(gateway.address) as client:
        client.load_model("open")
        assert client.is_model_ready("open")
        assert any(row["name"] == "add_sub" for row in client.get_model_repository_index())
        assert client.get_system_shared_memory_status() == []
        assert "trace_level" in client.get_trace_settings("open")
        assert "log_verbose_level" in client.get_log_settings()


def accumulate(client: Any, model: str, value: int, sequence: int | str, **flags: bool) -> tuple[int, bytes]:
    tensor = triton_http.InferInput("VALUE", [1, 1], "INT32")
    tensor.set_data_from_numpy(np.array([[value]], np.int32))
    answer = client.infer(model, [tensor], sequence_id=sequence, **flags)
    return int(answer.as_numpy("SUM")[0, 0]), answer.as_numpy("SERVER")[0, 0]


@pytest.mark.parametrize(("model", "ids"), [("sums", [7, 2**63]), ("sums_text", ["seven", "7"])])
def test_sequences_run(gateway: Gateway, model: str, ids: list[int | str]) -> None:
    """Numeric and string ids, interleaved, from START to END; without START the answer is an error."""
    with triton_http.InferenceServerClient(gateway.address) as client:
        for sequence in ids:
            accumulate(client, model, 1, sequence, sequence_start=True)
        for step in range(3):
            for sequence in ids:
                assert accumulate(client, model, 1, sequence)[0] == 2 + step
        for sequence in ids:
            assert accumulate(client, model, 5, sequence, sequence_end=True)[0] == 9
            with pytest.raises(InferenceServerException, match="START"):
                accumulate(client, model, 1, sequence)


def test_priority_and_timeout_pass_untouched(gateway: Gateway) -> None:
    """The client's own `priority` and `timeout` parameters are no concern of the gateway."""
    inputs, outputs = adder_inputs(True)
    with triton_http.InferenceServerClient(gateway.address) as client:
        answer = client.infer("adder", inputs, outputs=outputs, priority=1, timeout=5_000_000)
    assert answer.as_numpy("OUTPUT0").shape == (1, 16)


@pytest.mark.parametrize("binary", [True, False])
def test_the_deadline_can_be_written_into_tritons_queue_timeout(gateway: Gateway, binary: bool) -> None:
    """With `triton_timeout` the JSON grows, its length is corrected, and the tensors still come out right."""
    inputs, outputs = adder_inputs(binary, 2)
    with triton_http.InferenceServerClient(gateway.address) as client:
        answer = client.infer("budget", inputs, outputs=outputs, headers={"x-sluice-timeout-ms": "4000"})
    assert (answer.as_numpy("OUTPUT0") == np.arange(32, dtype=np.float32).reshape(2, 16) * 3).all()


def slow_body(delay_ms: int) -> dict[str, Any]:
    return {"inputs": [{"name": "DELAY_MS", "datatype": "INT32", "shape": [1], "data": [delay_ms]}]}


def test_a_deadline_is_504_in_tritons_error_shape(gateway: Gateway) -> None:
    """The client's shorter limit holds, the connection lives on, and a broken limit is 400."""
    with httpx.Client(base_url=gateway.url, trust_env=False) as client:
        late = client.post("/v2/models/slowly/infer", json=slow_body(600), headers={"x-sluice-timeout-ms": "100"})
        assert late.status_code == 504
        assert list(late.json()) == ["error"]
        assert client.post("/v2/models/slowly/infer", json=slow_body(1)).status_code == 200
        bad = client.post("/v2/models/slowly/infer", json=slow_body(1), headers={"x-sluice-timeout-ms": "soon"})
        assert bad.status_code == 400


def test_a_slot_stays_taken_while_triton_works_for_a_client_that_left(gateway: Gateway) -> None:
    """After a client leaves, its request counts as in flight until Triton has answered, then no longer."""

    def in_flight() -> float:
        return sum(value for key, value in gateway.metrics().items() if key.startswith("sluice_worker_in_flight"))

    assert eventually(lambda: in_flight() == 0), "what other tests left lingering has ended"
    host, _, port = gateway.address.partition(":")
    connection = http.client.HTTPConnection(host, int(port))
    body = json.dumps(slow_body(1500))
    connection.request("POST", "/v2/models/slowly/infer", body, {"Content-Type": "application/json"})
    assert eventually(lambda: in_flight() == 1)
    connection.close()
    cancelled = 'outcome="cancelled",route="slowly"'
    eventually(lambda: any(cancelled in key and value for key, value in gateway.metrics().items()))
    assert in_flight() == 1
    assert eventually(lambda: in_flight() == 0)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_compressed_bodies_pass_untouched(gateway: Gateway, pack: Any) -> None:
    """A compressed request body reaches Triton as it was sent, chunked or not."""
    inputs, outputs = adder_inputs(True)
    body, length = triton_http.InferenceServerClient.generate_request_body(inputs, outputs=outputs)
    encoding = "gzip" if pack is gzip.compress else "deflate"
    headers = {"Inference-Header-Content-Length": str(length), "Content-Encoding": encoding}
    packed = pack(body)
    url = f"{gateway.url}/v2/models/adder/infer"
    whole = httpx.post(url, content=packed, headers=headers, trust_env=False)
    chunks = (packed[i : i + 7] for i in range(0, len(packed), 7))
    chunked = httpx.post(url, content=chunks, headers=headers, trust_env=False)
    assert whole.status_code == chunked.status_code == 200
    assert whole.content == chunked.content
