"""Files in and out: a reader returns a `Scan`, a writer takes an `Image`. Readers are imported on use, never here."""

from mri_unroll.io.registry import describe, read_scan, write_image

__all__ = ["describe", "read_scan", "write_image"]
