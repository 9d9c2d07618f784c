"""Dashboards of Triton's metrics and of the GPUs."""

from panels import Board, Panel, rate


def triton() -> Board:
    """Where does time go inside Triton, and which batches does it form?"""
    here = 'model=~"$model"'
    per_request = [
        ("queue", "waiting"),
        ("compute_input", "input"),
        ("compute_infer", "inference"),
        ("compute_output", "output"),
    ]
    ok = f"(sum by (model, version) ({rate('nv_inference_request_success', here)}) > 0)"
    return Board(
        "sluice-triton",
        "Sluice: Triton queue and batching",
        "Triton's own counters: queue, batches, where time goes.",
        [
            (
                "Load",
                [
                    Panel(
                        "Requests",
                        "reqps",
                        [(rate("nv_inference_request_success", here), "{{model}} {{version}} {{instance}}")],
                    ),
                    Panel(
                        "Failures",
                        "reqps",
                        [(rate("nv_inference_request_failure", here), "{{model}} {{version}} {{reason}}")],
                    ),
                    Panel(
                        "Waiting in the queue",
                        "short",
                        [(f"nv_inference_pending_request_count{{{here}}}", "{{model}} {{version}}")],
                    ),
                ],
            ),
            (
                "Batching",
                [
                    Panel(
                        "Mean batch that was formed",
                        "short",
                        [
                            (
                                (
                                    f"sum by (model, version) ({rate('nv_inference_count', here)})"
                                    f" / (sum by (model, version) ({rate('nv_inference_exec_count', here)}) > 0)"
                                ),
                                "{{model}} {{version}}",
                            )
                        ],
                        "Rows for each execution; 1 means that nothing is batched.",
                    ),
                    Panel("Executions", "ops", [(rate("nv_inference_exec_count", here), "{{model}} {{version}}")]),
                    Panel("Rows", "ops", [(rate("nv_inference_count", here), "{{model}} {{version}}")]),
                ],
            ),
            (
                "Time of a request",
                [
                    Panel(
                        f"Mean time: {name}",
                        "µs",
                        [
                            (
                                f"sum by (model, version) ({rate(f'nv_inference_{part}_duration_us', here)}) / {ok}",
                                "{{model}} {{version}}",
                            )
                        ],
                    )
                    for part, name in per_request
                ],
            ),
        ],
        [("model", "nv_inference_count")],
    )


def gpu() -> Board:
    """How full are the GPUs? Triton's own view, and that of dcgm-exporter where it runs."""
    return Board(
        "sluice-gpu",
        "Sluice: GPU",
        "GPUs as Triton sees them; the second row needs dcgm-exporter.",
        [
            (
                "Triton",
                [
                    Panel("Utilization", "percentunit", [("nv_gpu_utilization", "{{instance}} {{gpu_uuid}}")]),
                    Panel(
                        "Memory in use",
                        "percentunit",
                        [("nv_gpu_memory_used_bytes / nv_gpu_memory_total_bytes", "{{instance}} {{gpu_uuid}}")],
                    ),
                    Panel(
                        "Power",
                        "watt",
                        [("nv_gpu_power_usage", "{{gpu_uuid}}"), ("nv_gpu_power_limit", "{{gpu_uuid}} limit")],
                    ),
                    Panel(
                        "Energy of one inference",
                        "joule",
                        [
                            (
                                f"sum({rate('nv_energy_consumption')}) / (sum({rate('nv_inference_count')}) > 0)",
                                "all models",
                            )
                        ],
                    ),
                    Panel("Pinned memory", "bytes", [("nv_pinned_memory_pool_used_bytes", "{{instance}}")]),
                    Panel("Processor of Triton's machine", "percentunit", [("nv_cpu_utilization", "{{instance}}")]),
                ],
            ),
            (
                "dcgm-exporter",
                [
                    Panel("Utilization", "percent", [("DCGM_FI_DEV_GPU_UTIL", "{{Hostname}} {{gpu}}")]),
                    Panel(
                        "Tensor cores active",
                        "percentunit",
                        [("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "{{Hostname}} {{gpu}}")],
                    ),
                    Panel(
                        "Memory interface active", "percentunit", [("DCGM_FI_PROF_DRAM_ACTIVE", "{{Hostname}} {{gpu}}")]
                    ),
                    Panel("Memory in use", "decmbytes", [("DCGM_FI_DEV_FB_USED", "{{Hostname}} {{gpu}}")]),
                    Panel("Temperature", "celsius", [("DCGM_FI_DEV_GPU_TEMP", "{{Hostname}} {{gpu}}")]),
                    Panel("Clock", "megahertz", [("DCGM_FI_DEV_SM_CLOCK", "{{Hostname}} {{gpu}}")]),
                    Panel("Last error (XID)", "short", [("DCGM_FI_DEV_XID_ERRORS", "{{Hostname}} {{gpu}}")]),
                ],
            ),
        ],
    )
