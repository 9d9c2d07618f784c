"""Dashboards of what changes: rollouts and shadows."""

from panels import Board, Panel, quantile, rate


def rollout() -> Board:
    """How far is a rollout, and what do its gates say?"""
    here = 'route=~"$route"'
    return Board(
        "sluice-rollout",
        "Sluice: rollout",
        "A rollout: phase, share, and what its gates know.",
        [
            (
                "Where it is",
                [
                    Panel("Phase", "short", [(f"sluice_rollout_info{{{here}}}", "{{route}} {{candidate}}: {{phase}}")]),
                    Panel(
                        "The candidate's share",
                        "percentunit",
                        [(f"sluice_rollout_weight_ratio{{{here}}}", "{{route}} {{candidate}}")],
                    ),
                    Panel("Stage", "short", [(f"sluice_rollout_stage{{{here}}}", "{{route}} {{candidate}}")]),
                    Panel(
                        "Observations in this stage",
                        "short",
                        [(f"sluice_rollout_samples{{{here}}}", "{{route}} {{candidate}}")],
                    ),
                    Panel(
                        "Ended in the last hour",
                        "short",
                        [(f"increase(sluice_rollouts_finished_total{{{here}}}[1h]) > 0", "{{route}} {{phase}}")],
                    ),
                ],
            ),
            (
                "Gates",
                [
                    Panel("Answers", "short", [(f"sluice_gate_info{{{here}}}", "{{gate}}: {{outcome}}")]),
                    Panel(
                        "Evidence against the candidate, share of the bound",
                        "percentunit",
                        [(f"sluice_gate_evidence{{{here}}} / (sluice_gate_bound{{{here}}} > 0)", "{{gate}}")],
                        "At 100 % the gate fails.",
                        lines=[1],
                    ),
                    Panel(
                        "Size of the difference",
                        "short",
                        [(f"sluice_gate_effect{{{here}}}", "{{gate}}")],
                        "For drift: PSI.",
                    ),
                    Panel(
                        "Shift of predictions (PSI)",
                        "short",
                        [(f'sluice_gate_effect{{gate="drift", {here}}}', "{{route}}")],
                        lines=[0.1, 0.2],
                    ),
                    Panel(
                        "Samples for the gates",
                        "ops",
                        [(rate("sluice_samples_total"), "{{result}}")],
                        "Dropped or unreadable ones tell the gates nothing.",
                    ),
                    Panel(
                        "Accuracy, last hour",
                        "percentunit",
                        [(f"sluice:accuracy_ratio:rate1h{{{here}}}", "{{route}} {{variant}}")],
                    ),
                ],
            ),
            (
                "Events",
                [
                    Panel("Webhooks", "ops", [(f"sum by (result) ({rate('sluice_events_total')})", "{{result}}")]),
                    Panel("Models loaded again", "ops", [(rate("sluice_fleet_mended_total"), "{{instance}}")]),
                ],
            ),
        ],
        [("route", "sluice_rollouts_finished_total")],
    )


def shadow() -> Board:
    """What do the copies say, and do they keep up?"""
    here = 'route=~"$route"'
    return Board(
        "sluice-shadow",
        "Sluice: shadow",
        "Copies of traffic: whether their answers agree, and what was not copied.",
        [
            (
                "Agreement",
                [
                    Panel(
                        "Share of answers that differ",
                        "percentunit",
                        [
                            (f"sluice:shadow_disagreement_ratio:rate15m{{{here}}}", "{{route}} {{variant}}"),
                            (f"sluice:shadow_noise_ratio:rate15m{{{here}}}", "{{route}} noise"),
                        ],
                        "Noise: copies that went to the variant which answered the client.",
                        lines=[0.01],
                    ),
                    Panel(
                        "Comparisons",
                        "ops",
                        [
                            (
                                f"sum by (variant, arm, result) ({rate('sluice_shadow_compared_total', here)})",
                                "{{variant}} {{arm}} {{result}}",
                            )
                        ],
                    ),
                ],
            ),
            (
                "Copies",
                [
                    Panel(
                        "How they ended",
                        "reqps",
                        [
                            (
                                f"sum by (variant, outcome) ({rate('sluice_shadow_requests_total', here)})",
                                "{{variant}} {{outcome}}",
                            )
                        ],
                    ),
                    Panel(
                        "Never sent",
                        "reqps",
                        [
                            (
                                f"sum by (variant, reason) ({rate('sluice_shadow_dropped_total', here)})",
                                "{{variant}} {{reason}}",
                            )
                        ],
                    ),
                    Panel(
                        "p99, copy and original",
                        "s",
                        [
                            (quantile(0.99, "sluice_shadow_duration_seconds", "variant", here), "copy to {{variant}}"),
                            (
                                quantile(0.99, "sluice_request_duration_seconds", "variant", here),
                                "original by {{variant}}",
                            ),
                        ],
                    ),
                ],
            ),
        ],
        [("route", "sluice_shadow_requests_total")],
    )
