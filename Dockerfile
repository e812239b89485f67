# The container image of Nabla; `make image` builds it (BuildKit). docs/deployment.md says how to run it.

# Both stages start here: the environment names its interpreter by path, so it must be the same one.
# A tag may mean another image tomorrow. To build from one image until you decide otherwise, name it by its digest:
#   docker buildx imagetools inspect python:3.11-slim       tells the digest
#   make image BASE=python:3.11-slim@sha256:<digest>        builds from it
ARG BASE=python:3.11-slim
FROM ${BASE} AS base

# The page at /, built with the Node that requirements/node.txt pins. --build-arg NABLA_DEMO=off makes an image without it.
FROM base AS demo
ARG NABLA_DEMO=on
WORKDIR /app
COPY openapi.yaml ./
COPY requirements/node.txt requirements/
COPY scripts/demo.py scripts/
COPY demo demo
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=cache,target=/root/.npm \
    mkdir -p service/demo && python scripts/demo.py

FROM base AS build
WORKDIR /app
# Every package is checked against its hash, and wheels only: nothing is compiled or run at installation.
# The driver of PostgreSQL is among them. pip stays outside the environment. Its cache lives in BuildKit, not in a layer.
# --build-arg LOCK=cluster adds Dask, for servers that share large requests and for the workers that they share them with.
ARG LOCK=image
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=requirements,target=/tmp/requirements \
    python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --require-hashes --only-binary=:all: \
        --requirement "/tmp/requirements/${LOCK}.txt"
COPY gunicorn.conf.py openapi.yaml ./
COPY schemas schemas
COPY service service
COPY --from=demo /app/service/demo service/demo
# Bytecode now, because a read-only container cannot keep any; by hash, so that file times do not matter.
# Readable by all, because a checkout under a strict umask is not.
RUN /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash schemas service \
    && chmod -R a+rX .

FROM base
LABEL org.opencontainers.image.title="Nabla" \
    org.opencontainers.image.description="Exact gradients of neural networks over HTTP" \
    org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
# For a volume: it begins with the owner of the folder that it covers. NABLA_DATA=/data uses it.
RUN mkdir -m 700 /data && chown 10001:10001 /data
WORKDIR /app
# HOST: a container's own loopback address cannot be reached from outside.
# PYTHONUNBUFFERED: log lines leave at once, also those written just before the end.
# PYTHONDONTWRITEBYTECODE: what runs is compiled already, and the file system is meant to be read-only.
# OPENBLAS_NUM_THREADS: parallelism comes from workers; BLAS threads would compete with them for the same cores.
# MALLOC_ARENA_MAX: many threads would make many arenas, and each keeps what its largest requests took.
# MALLOC_*_THRESHOLD_: glibc would return every freed megabyte to the system and fault it in again for the next request.
ENV PATH=/opt/venv/bin:$PATH \
    HOST=0.0.0.0 \
    PORT=8000 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OPENBLAS_NUM_THREADS=1 \
    MALLOC_ARENA_MAX=2 \
    MALLOC_MMAP_THRESHOLD_=33554432 \
    MALLOC_TRIM_THRESHOLD_=268435456
# A number needs no line in /etc/passwd, and an orchestrator can see that it is not root.
USER 10001:10001
EXPOSE 8000
# slim has no curl; http.client, unlike urllib.request, does not ask an HTTP_PROXY for 127.0.0.1.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=4); c.request('GET', '/health/live'); raise SystemExit(c.getresponse().status != 200)"]
# As a list: gunicorn is the first process itself and hears the stop signal. Its settings are in gunicorn.conf.py.
CMD ["python", "-m", "service", "serve"]
