# syntax=docker/dockerfile:1
# Two images: `gateway` (the last stage, so the default), which has neither torch nor Locust, and `loadtest`.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /srv/sluice
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY gateway ./gateway
COPY export ./export
COPY loadtest ./loadtest
RUN /srv/sluice/bin/pip install --constraint constraints.txt .

FROM build AS build-loadtest
RUN /srv/sluice/bin/pip install --constraint constraints.txt ".[loadtest]"

# What both images share: a user without rights and a directory that it may write to.
FROM ${PYTHON} AS base
ENV PATH=/srv/sluice/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN groupadd --system --gid 10001 sluice \
    && useradd --system --uid 10001 --gid sluice --home-dir /var/lib/sluice --shell /usr/sbin/nologin sluice \
    && install --directory --owner=sluice --group=sluice --mode=0750 /var/lib/sluice
WORKDIR /var/lib/sluice
ENTRYPOINT ["sluice"]

FROM base AS loadtest
COPY --from=build-loadtest /srv/sluice /srv/sluice
USER 10001:10001
CMD ["loadtest", "--help"]

FROM base AS gateway
COPY --from=build /srv/sluice /srv/sluice
USER 10001:10001
EXPOSE 8080 8081
VOLUME /var/lib/sluice
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8081/readyz', timeout=2)"]
CMD ["serve", "--config", "/etc/sluice/sluice.yaml", "--routes", "/etc/sluice/routes.yaml"]
