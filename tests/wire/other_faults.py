"""Faults of processes, of the machine and of operators: what happens, and the test that shows it."""

from typing import NamedTuple


class Other(NamedTuple):
    """What becomes of a fault.

    Attributes:
        what: happens.
        shown: file below tests/ and test, as pytest names it, or a command.
    """

    what: str
    shown: str


OTHERS = {
    "the client leaves at any byte of upload, wait or download": Other(
        "its slot and its buffers are let go, the next client is served",
        "wire/test_routing.py::test_leaving_at_any_byte",
    ),
    "10^5 requests given up among others": Other(
        "no answer reaches a wrong client", "faults/test_chaos.py::test_aborted_requests"
    ),
    "a reader that never reads": Other(
        "it is cut off after `write_timeout_s`", "wire/test_pressure.py::test_reader_that_never_reads_a_long_answer"
    ),
    "clients that drip heads or bodies": Other("408", "wire/test_pressure.py::test_heads_that_drip"),
    "a crowd of requests that stay incomplete": Other(
        "503 beyond a bound of its own, others are served", "wire/test_pressure.py::test_a_crowd_of_pieces_is_shed"
    ),
    "2,000 idle connections": Other(
        "less than 10 kB each", "wire/test_pressure.py::test_many_idle_connections_are_small"
    ),
    "no file descriptors": Other(
        "new clients wait in the backlog, open connections are served, and so are the others later",
        "wire/test_descriptors.py::test_without_descriptors_nobody_is_lost",
    ),
    "more clients at once than `max_connections`": Other(
        "no more are taken in, the others wait in the backlog and have their turn",
        "faults/test_bounds.py::test_connections_beyond_the_bound_wait_for_a_place",
    ),
    "a backend that says it is not ready, hangs when probed, or is gone": Other(
        "no connection to it is kept, it gets no request, and comes back by itself",
        "faults/test_probes.py::test_a_backend_that_fails_its_probes",
    ),
    "whoever reads the log stops reading": Other(
        "lines are dropped and counted, no request waits",
        "operations/test_access_log.py::test_nobody_waits_for_the_reader",
    ),
    "the clock jumps": Other(
        "nothing on the request path reads it", "wire/test_descriptors.py::test_the_request_path_reads_no_calendar"
    ),
    "an idle backend connection is closed just as it is used again": Other(
        "the request is sent on another one", "wire/test_backend_faults.py::test_stale_connection_is_retried_unseen"
    ),
    "SIGKILL of a Triton under load": Other(
        "no idempotent request fails",
        "triton/test_survival.py::test_a_killed_replica_fails_no_idempotent_request",
    ),
    "a backend that flaps ten times a second, one that is slow, stopped, or fails": Other(
        "invariants hold", "faults/test_chaos.py::test_storm"
    ),
    "a Triton that unloads (`unknown model`, `Server exiting`, `not at ready state`)": Other(
        "the next replica is asked", "wire/test_retries.py::test_not_here_is_tried_elsewhere"
    ),
    "a model is unloaded from a Triton that has requests inside": Other(
        "those are finished, later ones are tried elsewhere; without another replica clients get Triton's own words",
        "triton/test_unload.py::test_unloading_on_one_replica_fails_no_request",
    ),
    "a Triton is killed, told to end or stopped in the middle of an upload": Other(
        "502, Triton's answer, or 504 at the deadline; other uploads and requests are served",
        "triton/test_mid_body.py::test_a_replica_in_the_middle_of_an_upload",
    ),
    "a queue that stays full": Other(
        "503 with Retry-After for as long, the line is bounded and nothing grows; after it the next request is served",
        "faults/test_full_queue.py::test_a_queue_that_stays_full",
    ),
    "Triton's own queue is full": Other(
        "its 503 is passed on and not tried again", "wire/test_retries.py::test_final_answers_are_passed_on"
    ),
    "a shadow that hangs or answers without end": Other(
        "no request waits or fails for it", "wire/test_routing.py::test_shadow_is_nobodys_trouble"
    ),
    "the addresses behind a name change": Other(
        "new ones are used, old ones finish what they have", "operations/test_pools.py::test_a_name_is_followed"
    ),
    "a worker is killed": Other(
        "what it held is lost, nothing else", "triton/test_survival.py::test_a_killed_worker_loses_only_what_it_held"
    ),
    "the controller is killed": Other(
        "no request is lost", "triton/test_survival.py::test_a_killed_controller_costs_no_request"
    ),
    "a worker or the controller hangs (SIGSTOP)": Other(
        "it is reported, killed and replaced", "supervisor/test_group.py::test_a_stopped_process_is_replaced"
    ),
    "the store is locked": Other(
        "changes get 503, requests are served", "operations/test_store.py::test_a_locked_store_refuses_changes_alone"
    ),
    "no disk for the store": Other(
        "changes get 503, requests are served", "operations/test_store.py::test_a_full_disk_refuses_changes_alone"
    ),
    "a corrupt store": Other(
        "changes get 503, requests are served", "operations/test_store.py::test_a_corrupt_store_refuses_changes_alone"
    ),
    "a corrupt table file": Other(
        "the worker says so and waits for the controller", "wire/test_lifecycle.py::test_corrupt_table_file"
    ),
    "100 reloads a second under load": Other(
        "no request is lost, the last one counts",
        "operations/test_restart.py::test_a_hundred_reloads_a_second_are_borne",
    ),
    "settings or weights that are wrong": Other(
        "refused with key, line and reason; the old ones stay",
        "supervisor/test_serve.py::test_every_mistake_is_one_message_and_an_exit_code",
    ),
}
