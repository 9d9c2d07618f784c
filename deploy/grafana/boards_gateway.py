"""Dashboards of the gateway: everything that runs, and one route."""

from panels import Board, Panel, quantile, rate


def fleet() -> Board:
    """Is everything there, and does it keep up?"""
    return Board(
        "sluice-fleet",
        "Sluice: fleet",
        "Gateways, workers and backends: what is there, how busy it is, what fails.",
        [
            (
                "Now",
                [
                    Panel(
                        "Alerts", "short", [('count(ALERTS{alertstate="firing"}) or vector(0)', "firing")], kind="stat"
                    ),
                    Panel("Requests", "reqps", [("sum(sluice:route_requests:rate5m)", "all routes")], kind="stat"),
                    Panel(
                        "Workers",
                        "short",
                        [("sum(sluice_worker_up)", "up"), ("count(sluice_worker_up)", "configured")],
                        kind="stat",
                    ),
                    Panel("Generation", "short", [("max(sluice_generation)", "published")], kind="stat"),
                ],
            ),
            (
                "Routes",
                [
                    Panel("Requests", "reqps", [("sluice:route_requests:rate5m", "{{route}}")]),
                    Panel(
                        "Share of requests that failed",
                        "percentunit",
                        [("sluice:route_error_ratio:rate5m", "{{route}}")],
                        lines=[0.001],
                    ),
                    Panel("Latency, p99", "s", [("sluice:route_latency_seconds:p99_5m", "{{route}}")], lines=[0.1]),
                    Panel(
                        "Share of requests shed",
                        "percentunit",
                        [("sluice:route_shed_ratio:rate5m", "{{route}}")],
                        lines=[0.01],
                    ),
                    Panel(
                        "Answers made by the gateway",
                        "reqps",
                        [(f"sum by (code) ({rate('sluice_faults_total')})", "{{code}}")],
                        "Unknown paths, missing credentials, limits: by fault.",
                    ),
                    Panel("Further attempts", "reqps", [(rate("sluice_retries_total"), "{{instance}}")]),
                ],
            ),
            (
                "Workers",
                [
                    Panel(
                        "Requests under way",
                        "short",
                        [("sluice_worker_in_flight", "{{instance}} {{worker}}")],
                        stacked=True,
                    ),
                    Panel("Client connections", "short", [("sluice_worker_connections", "{{instance}} {{worker}}")]),
                    Panel(
                        "Resident memory", "bytes", [("sluice_worker_resident_memory_bytes", "{{instance}} {{worker}}")]
                    ),
                    Panel(
                        "Bodies held in memory", "bytes", [("sluice_worker_buffered_bytes", "{{instance}} {{worker}}")]
                    ),
                    Panel(
                        "Starts in 15 minutes",
                        "short",
                        [("increase(sluice_worker_starts_total[15m])", "{{instance}} {{worker}}")],
                        lines=[3],
                    ),
                    Panel(
                        "Generations behind",
                        "short",
                        [
                            (
                                "sluice_generation - on (instance) group_right () sluice_worker_generation",
                                "{{instance}} {{worker}}",
                            )
                        ],
                    ),
                ],
            ),
            (
                "Backends",
                [
                    Panel(
                        "Workers by the state they see",
                        "short",
                        [("sum by (backend, state) (sluice_backend_workers)", "{{backend}} {{state}}")],
                    ),
                    Panel(
                        "Requests",
                        "reqps",
                        [(f"sum by (backend) ({rate('sluice_backend_requests_total')})", "{{backend}}")],
                    ),
                    Panel(
                        "Failures",
                        "reqps",
                        [(f"sum by (backend) ({rate('sluice_backend_failures_total')})", "{{backend}}")],
                    ),
                    Panel(
                        "Leases under way", "short", [("sum by (backend) (sluice_backend_in_flight)", "{{backend}}")]
                    ),
                    Panel(
                        "New connections",
                        "ops",
                        [
                            (f"sum by (backend) ({rate('sluice_backend_connects_total')})", "{{backend}}"),
                            (
                                f"sum by (backend) ({rate('sluice_backend_connect_failures_total')})",
                                "{{backend}} failed",
                            ),
                        ],
                    ),
                    Panel(
                        "Ejections",
                        "ops",
                        [(f"sum by (backend) ({rate('sluice_backend_ejections_total')})", "{{backend}}")],
                    ),
                    Panel(
                        "Models that are missing",
                        "short",
                        [
                            (
                                "sum by (backend, model, model_version) (sluice_fleet_missing)",
                                "{{backend}} {{model}} {{model_version}}",
                            )
                        ],
                    ),
                ],
            ),
        ],
    )


def route() -> Board:
    """How do the variants of one route compare?"""
    here = 'route=~"$route"'
    return Board(
        "sluice-route",
        "Sluice: route",
        "One route: its variants side by side.",
        [
            (
                "Traffic",
                [
                    Panel(
                        "Share that is set",
                        "percentunit",
                        [(f"max by (variant) (sluice_route_weight_ratio{{{here}}})", "{{variant}}")],
                    ),
                    Panel(
                        "Requests",
                        "reqps",
                        [(f"sluice:variant_requests:rate5m{{{here}}}", "{{variant}}")],
                        stacked=True,
                    ),
                    Panel(
                        "How they ended",
                        "reqps",
                        [
                            (
                                f"sum by (variant, outcome) ({rate('sluice_requests_total', here)}) > 0",
                                "{{variant}} {{outcome}}",
                            )
                        ],
                    ),
                    Panel(
                        "Answers by status",
                        "reqps",
                        [(f"sum by (variant, code) ({rate('sluice_responses_total', here)})", "{{variant}} {{code}}")],
                    ),
                ],
            ),
            (
                "Objectives",
                [
                    Panel(
                        "Share that failed",
                        "percentunit",
                        [(f"sluice:variant_error_ratio:rate5m{{{here}}}", "{{variant}}")],
                        lines=[0.001],
                    ),
                    Panel(
                        "p50",
                        "s",
                        [(quantile(0.5, "sluice_request_duration_seconds", "variant", here), "{{variant}}")],
                        lines=[0.02],
                    ),
                    Panel(
                        "p99",
                        "s",
                        [(quantile(0.99, "sluice_request_duration_seconds", "variant", here), "{{variant}}")],
                        "Points are traces, where tracing is on.",
                        lines=[0.1],
                    ),
                    Panel(
                        "Mean time in the gateway",
                        "s",
                        [
                            (
                                (
                                    f"(sum by (variant) ({rate('sluice_request_duration_seconds_sum', here)})"
                                    f" - sum by (variant) ({rate('sluice_upstream_seconds_total', here)}))"
                                    f" / (sum by (variant) ({rate('sluice_request_duration_seconds_count', here)}) > 0)"
                                ),
                                "{{variant}}",
                            )
                        ],
                        "From the first byte to the answer, without the time spent waiting for Triton.",
                    ),
                    Panel(
                        "Budget burn rate",
                        "short",
                        [
                            (f"sluice:route_error_ratio:rate1h{{{here}}} / 0.001", "1 h"),
                            (f"sluice:route_error_ratio:rate6h{{{here}}} / 0.001", "6 h"),
                            (f"sluice:route_error_ratio:rate3d{{{here}}} / 0.001", "3 d"),
                        ],
                        "1 uses up a month's error budget in a month.",
                        lines=[1, 14.4],
                    ),
                    Panel(
                        "Accuracy, last hour",
                        "percentunit",
                        [(f"sluice:accuracy_ratio:rate1h{{{here}}}", "{{variant}}")],
                    ),
                ],
            ),
            (
                "Bytes",
                [
                    Panel(
                        "Received",
                        "Bps",
                        [(f"sum by (variant) ({rate('sluice_request_bytes_total', here)})", "{{variant}}")],
                    ),
                    Panel(
                        "Sent",
                        "Bps",
                        [(f"sum by (variant) ({rate('sluice_response_bytes_total', here)})", "{{variant}}")],
                    ),
                ],
            ),
        ],
        [("route", "sluice_requests_total")],
    )
