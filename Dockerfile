# Two targets: `runtime` samples an exported model (no torch), `train` runs the pipeline.
#   docker build --target runtime -t sunfish .          docker run --rm -v "$PWD/models/onnx:/model:ro" sunfish generate --num 3
#   docker build --target train -t sunfish-train .      docker run --rm -v "$PWD:/work" sunfish-train dvc repro
FROM python:3.11.13-slim-bookworm AS base
RUN apt-get update && apt-get install --yes --no-install-recommends tini && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 sunfish
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

FROM base AS runtime
WORKDIR /app
COPY locks/runtime.lock pyproject.toml README.md LICENSE ./
COPY sunfish sunfish
RUN pip install --no-deps --require-hashes --requirement runtime.lock && pip install --no-deps .
USER sunfish
ENV SUNFISH_MODEL=/model
# -g: signals reach the whole process group, so that a stopped container leaves no orphan
ENTRYPOINT ["tini", "-g", "--", "sunfish"]
CMD ["--help"]

FROM base AS train
RUN apt-get update && apt-get install --yes --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
COPY locks /tmp/locks
RUN cd /tmp/locks && pip install --no-deps --require-hashes \
    --requirement torch-cuda.lock --requirement runtime.lock --requirement train.lock
WORKDIR /work
USER sunfish
ENV MLFLOW_DISABLE_TELEMETRY=true PYTHONPATH=/work
ENTRYPOINT ["tini", "-g", "--"]
CMD ["dvc", "repro"]
