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
COPY pyproject.toml README.md LICENSE NOTICE THIRD_PARTY.md ./
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

# Beside a scanner, as OpenRecon and FIRE start it: as root, with MRD on port 9002 and nothing else. The label is what
# OpenRecon reads, openrecon.json in base64 (a test holds both together). Hosts may ask for an older CUDA than this lock
# has; see docs/service.md.
FROM command AS inline
LABEL "com.siemens-healthineers.magneticresonance.openrecon.metadata:1.1.0"="ewogICJnZW5lcmFsIjogewogICAgIm5hbWUiOiB7ImVuIjogIm1yaV91bnJvbGwifSwKICAgICJ2ZXJzaW9uIjogIjAuMS4wIiwKICAgICJ2ZW5kb3IiOiAibXJpdW5yb2xsIiwKICAgICJpbmZvcm1hdGlvbiI6IHsiZW4iOiAiUGljdHVyZXMgZnJvbSB1bmRlcnNhbXBsZWQgcmF3IGRhdGEgYnkgZGVlcCB1bnJvbGxpbmcuIFJlc2VhcmNoIHVzZSBvbmx5LCBub3QgZm9yIGRpYWdub3Npcy4ifSwKICAgICJpZCI6ICJtcml1bnJvbGwiLAogICAgInJlZ3VsYXRvcnlfaW5mb3JtYXRpb24iOiB7CiAgICAgICJkZXZpY2VfdHJhZGVfbmFtZSI6ICJtcmlfdW5yb2xsIiwKICAgICAgInByb2R1Y3Rpb25faWRlbnRpZmllciI6ICIwLjEuMCIsCiAgICAgICJtYW51ZmFjdHVyZXJfYWRkcmVzcyI6ICIiLAogICAgICAibWFkZV9pbiI6ICIiLAogICAgICAibWFudWZhY3R1cmVfZGF0ZSI6ICIiLAogICAgICAibWF0ZXJpYWxfbnVtYmVyIjogIiIsCiAgICAgICJndGluIjogIiIsCiAgICAgICJ1ZGkiOiAiIiwKICAgICAgInNhZmV0eV9hZHZpY2VzIjogIlJlc2VhcmNoIHVzZSBvbmx5LiBOb3QgZm9yIGRpYWdub3Npcy4iLAogICAgICAic3BlY2lhbF9vcGVyYXRpbmdfaW5zdHJ1Y3Rpb25zIjogIiIsCiAgICAgICJhZGRpdGlvbmFsX3JlbGV2YW50X2luZm9ybWF0aW9uIjogIk5vdCBhIG1lZGljYWwgZGV2aWNlLiIKICAgIH0KICB9LAogICJyZWNvbnN0cnVjdGlvbiI6IHsKICAgICJ0cmFuc2Zlcl9wcm90b2NvbCI6IHsicHJvdG9jb2wiOiAiSVNNUk1SRCIsICJ2ZXJzaW9uIjogIjEuNC4xIn0sCiAgICAicG9ydCI6IDkwMDIsCiAgICAiZW1pdHRlciI6ICJyYXciLAogICAgImluamVjdG9yIjogImltYWdlIiwKICAgICJjYW5fcHJvY2Vzc19hZGp1c3RtZW50X2RhdGEiOiBmYWxzZSwKICAgICJjYW5fdXNlX2dwdSI6IGZhbHNlLAogICAgIm1pbl9jb3VudF9yZXF1aXJlZF9ncHVzIjogMCwKICAgICJtaW5fcmVxdWlyZWRfZ3B1X21lbW9yeSI6IDAsCiAgICAibWluX3JlcXVpcmVkX21lbW9yeSI6IDgxOTIsCiAgICAibWluX2NvdW50X3JlcXVpcmVkX2NwdV9jb3JlcyI6IDIsCiAgICAiY29udGVudF9xdWFsaWZpY2F0aW9uX3R5cGUiOiAiUkVTRUFSQ0giLAogICAgInJlcXVpcmVfcmVhZG91dF9maWx0ZXJfb2ZmIjogdHJ1ZSwKICAgICJjaGFubmVsX2NvbXByZXNzaW9uIjogeyJyZXF1aXJlX3N0YXRlIjogIm9mZiJ9CiAgfSwKICAicGFyYW1ldGVycyI6IFsKICAgIHsKICAgICAgImlkIjogImNvbmZpZyIsCiAgICAgICJsYWJlbCI6IHsiZW4iOiAiTWV0aG9kIn0sCiAgICAgICJ0eXBlIjogImNob2ljZSIsCiAgICAgICJ2YWx1ZXMiOiBbCiAgICAgICAgeyJpZCI6ICJvcGVucmVjb24iLCAibmFtZSI6IHsiZW4iOiAidHJhaW5lZCBuZXR3b3JrIn19LAogICAgICAgIHsiaWQiOiAibDEtd2F2ZWxldCIsICJuYW1lIjogeyJlbiI6ICJjb21wcmVzc2VkIHNlbnNpbmcsIHdhdmVsZXRzIn19LAogICAgICAgIHsiaWQiOiAidHYiLCAibmFtZSI6IHsiZW4iOiAiY29tcHJlc3NlZCBzZW5zaW5nLCB0b3RhbCB2YXJpYXRpb24ifX0sCiAgICAgICAgeyJpZCI6ICJ6ZXJvLWZpbGxlZCIsICJuYW1lIjogeyJlbiI6ICJGb3VyaWVyIHRyYW5zZm9ybSBhbG9uZSJ9fQogICAgICBdLAogICAgICAiZGVmYXVsdCI6ICJvcGVucmVjb24iLAogICAgICAiaW5mb3JtYXRpb24iOiB7ImVuIjogIldoYXQgbWFrZXMgdGhlIHBpY3R1cmVzLiJ9CiAgICB9LAogICAgewogICAgICAiaWQiOiAiZWZmb3J0IiwKICAgICAgImxhYmVsIjogeyJlbiI6ICJFZmZvcnQgb2YgdGhlIG5ldHdvcmsifSwKICAgICAgInR5cGUiOiAiY2hvaWNlIiwKICAgICAgInZhbHVlcyI6IFsKICAgICAgICB7ImlkIjogImZhc3QiLCAibmFtZSI6IHsiZW4iOiAiZmFzdCJ9fSwKICAgICAgICB7ImlkIjogIm5vcm1hbCIsICJuYW1lIjogeyJlbiI6ICJub3JtYWwifX0sCiAgICAgICAgeyJpZCI6ICJiZXN0IiwgIm5hbWUiOiB7ImVuIjogImJlc3QsIGZvdXIgdGltZXMgYXMgbG9uZyJ9fQogICAgICBdLAogICAgICAiZGVmYXVsdCI6ICJub3JtYWwiLAogICAgICAiaW5mb3JtYXRpb24iOiB7ImVuIjogIk9mIHRoZSB0cmFpbmVkIG5ldHdvcmsgYWxvbmUuIn0KICAgIH0KICBdCn0K"
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
