# mri_unroll as a command, for example:
#
#   docker build -t mri-unroll --target command .
#   docker run --rm --network none -v "$PWD:/data" --user "$(id -u):$(id -g)" mri-unroll recon knee.h5 -o out
#
# and as a service, which is the default target (docs/service.md):
#
#   docker build -t mri-unroll:service .
#   docker run --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges -v mri-data:/data \
#       -v /etc/mri-unroll.token:/run/token:ro -p 127.0.0.1:8080:8080 mri-unroll:service --token-file /run/token
#
# With CuPy, for an NVIDIA GPU (run it with `--gpus all`):
#
#   docker build -t mri-unroll:gpu --build-arg LOCK=requirements-gpu.lock .
#
# Both images are several GB: for Linux on x86-64 the package index holds no torch without CUDA, so that the "CPU" image
# carries the CUDA build as well. It runs on the CPU where there is no GPU.

FROM python:3.12.11-slim-bookworm AS build
ARG LOCK=requirements.lock
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/mri-unroll
COPY requirements.lock requirements-gpu.lock ./
RUN /opt/mri-unroll/bin/pip install --require-hashes --only-binary :all: -r "$LOCK"
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY sample_data sample_data
COPY mri_unroll mri_unroll
# The lock holds the build backend too: nothing is fetched here.
RUN /opt/mri-unroll/bin/pip install --no-index --no-deps --no-build-isolation .

FROM python:3.12.11-slim-bookworm AS command
LABEL org.opencontainers.image.title="mri-unroll" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.description="MRI reconstruction by deep unrolling. For research use; not a medical device."
RUN useradd --uid 10001 --create-home mri && install -d -o mri -g mri /data
COPY --from=build /opt/mri-unroll /opt/mri-unroll
# Caches lie where any user may write, so that `docker run --user` works.
ENV PATH=/opt/mri-unroll/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    NUMBA_CACHE_DIR=/tmp/numba \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER mri
WORKDIR /data
HEALTHCHECK --interval=5m --timeout=60s --start-period=60s CMD ["mri-unroll", "doctor"]
ENTRYPOINT ["mri-unroll"]
CMD ["--help"]

# Beside a scanner, as OpenRecon and FIRE start it: as root, with MRD on port 9002 and nothing else. Such hosts may ask for
# a label of their own and for an older CUDA than this lock has; see docs/service.md.
FROM command AS inline
USER root
EXPOSE 9002
ENTRYPOINT ["mri-unroll", "serve", "--no-http", "--host", "0.0.0.0", "--mrd-port", "9002", "--data-dir", "/tmp/mri-unroll"]
CMD []

# The default. Weights are inside; nothing is fetched at run time. Uploads, jobs and results lie in the volume /data.
FROM command AS service
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", \
    "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/health/ready', timeout=4)"]
ENTRYPOINT ["mri-unroll", "serve", "--host", "0.0.0.0", "--data-dir", "/data"]
CMD []
