# One image for both programs; the command says which: see docker-compose.yml.
ARG PYTHON=3.13.15-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir "uv>=0.9,<1"
WORKDIR /app
# The dependencies change less often than the code: a layer of their own
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN uv sync --locked --no-dev --extra postgres --no-install-project
COPY collector collector
COPY marzban_bridge marzban_bridge
RUN uv sync --locked --no-dev --extra postgres --no-editable

FROM python:${PYTHON}
LABEL org.opencontainers.image.title="External traffic for Marzban and PasarGuard" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Volumes that are mounted here begin with these folders' owner
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin traffic \
 && mkdir -p /data /tokens/collector /tokens/bridge /tokens/grafana /alerting /smtp \
 && chown -R traffic:traffic /data /tokens /alerting /smtp \
 && chmod 700 /data /tokens/collector /tokens/bridge
COPY --from=build /app/.venv /app/.venv
USER 10001:10001
WORKDIR /data
CMD ["traffic-collector", "--help"]
