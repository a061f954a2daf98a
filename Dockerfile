# An image for pretraining and fine-tuning on NVIDIA GPUs. Written for docker or podman; the test
# suite reads it but does not build it. To pin the base by content, append @sha256:... to its tag.
FROM nvidia/cuda:13.0.1-base-ubuntu24.04

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# gcc and the Python headers: Triton compiles a small launcher for each kernel when it first runs.
# Ubuntu keeps no old versions of packages, so pinned ones would soon be gone.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        gcc libc6-dev python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV VIRTUAL_ENV=/opt/venv \
    PATH=/opt/venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1

WORKDIR /opt/ponet

# torch brings its own CUDA libraries. It is a layer of its own, which a change of code leaves alone.
COPY constraints.txt ./
RUN python3 -m venv "$VIRTUAL_ENV" && pip install --constraint constraints.txt torch

COPY pyproject.toml README.md LICENSE ./
COPY ponet ponet
COPY data_prep data_prep
COPY training training
COPY pretrain pretrain
COPY finetune finetune
RUN pip install --constraint constraints.txt --editable '.[deepspeed,hub]'

COPY configs configs

# Everything above belongs to root; a run writes to these two folders alone.
RUN useradd --uid 10001 --create-home ponet \
    && mkdir data runs \
    && chown ponet:ponet data runs
USER 10001

CMD ["ponet-pretrain", "--help"]
