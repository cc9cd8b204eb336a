"""Numbers for Prometheus: jobs by state, requests and how long they took, free disk."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mri_unroll.machine import disk_free_bytes
from mri_unroll.service.jobs import Jobs
from mri_unroll.service.settings import ServiceSettings


class Metrics:
    """One registry of this application."""

    def __init__(self, jobs: Jobs, settings: ServiceSettings) -> None:
        self._registry = CollectorRegistry()
        names = ("method", "route")
        self._requests = Counter(
            "mri_unroll_requests", "Requests answered", (*names, "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "mri_unroll_request_seconds", "Time to the end of the answer", names, registry=self._registry
        )
        self._registry.register(_State(jobs, settings))

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        method = method if method in ("GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH") else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def text(self) -> bytes:
        """All of them, in the text format."""
        return generate_latest(self._registry)


class _State(Collector):
    def __init__(self, jobs: Jobs, settings: ServiceSettings) -> None:
        self._jobs, self._settings = jobs, settings

    def collect(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("mri_unroll_jobs", "Jobs kept, by state", labels=["state"])
        for state, count in self._jobs.counted().items():
            jobs.add_metric([state], count)
        yield jobs
        free = disk_free_bytes(self._settings.folder)
        if free is not None:
            yield GaugeMetricFamily("mri_unroll_disk_free_bytes", "Free space for uploads and results", value=free)

    def describe(self) -> Iterator[Metric]:
        return iter(())
