# The gateway, and the engine it can start beside itself. No model is downloaded, at build or at start:
# weights of Riva's models stay with Riva.
#
#   docker build -t perch .
#   docker run --env-file .env -p 8443:8443 perch

ARG PYTHON=python:3.11.14-slim-bookworm

FROM ${PYTHON} AS build
RUN pip install --no-cache-dir uv==0.13.8
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PROJECT_ENVIRONMENT=/opt/perch \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /build
# Dependencies change less often than the source: their layer is built without it.
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-default-groups --extra otlp --extra onnx --no-install-project
COPY README.md LICENSE ./
COPY static static
COPY src src
RUN uv sync --frozen --no-default-groups --extra otlp --extra onnx --no-editable

FROM ${PYTHON}
RUN useradd --uid 10001 --user-group --no-log-init --create-home --home-dir /var/lib/perch perch
COPY --from=build /opt/perch /opt/perch
ENV PATH=/opt/perch/bin:$PATH \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONUNBUFFERED=1 \
    PERCH_LOG_FORMAT=json
# Writable by perch: the self-signed certificate is kept here.
WORKDIR /var/lib/perch
USER 10001:10001
EXPOSE 8443
# Asks this process alone, never the engine: a gateway whose engine is down must not be restarted for it.
# Change port and TLS by PERCH_PORT and PERCH_TLS, not by options of serve, and this follows.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, ssl, urllib.request as r; e = os.environ.get; s = 'http' if e('PERCH_TLS', '').lower() in ('false', '0', 'no', 'off', 'f', 'n') else 'https'; r.urlopen(f\"{s}://127.0.0.1:{e('PERCH_PORT') or 8443}/health\", timeout=4, context=ssl._create_unverified_context())"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["perch"]
CMD ["serve", "--host", "0.0.0.0"]
