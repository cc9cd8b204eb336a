"""What the commands that take a folder of scans have in common: their options, what they say, and their exit codes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from mri_unroll import __version__
from mri_unroll.config import DeviceChoice, ReconstructionConfig
from mri_unroll.errors import ConfigError
from mri_unroll.terminal import BAD_INPUT, BUG, NO_VERDICT, RESEARCH, Events, listening, put, put_json, tell

if TYPE_CHECKING:
    from mri_unroll.cohort.hiring import Crew
    from mri_unroll.cohort.tasks import Shard

Workers = Annotated[
    int | None, typer.Option(min=1, help="Of a folder: processes, or actors of a cluster.", show_default="1")
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS|local", help="Of a folder: work on Ray actors (extra `cluster`).", show_default=False
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="Of a folder: every N-th file from I on, 0/N to N-1/N."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Of a folder: continue; what is finished is left as it is.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Of a folder: exit code 0 although some files were bad. They are listed.")
]


class Bad(Protocol):
    """A file that was not done."""

    @property
    def file(self) -> str:
        """Its name."""
        ...

    @property
    def kind(self) -> str:
        """Name of the error."""
        ...

    @property
    def reason(self) -> str:
        """Why."""
        ...


def make_crew(workers: int | None, cluster: str | None, threads: int | None, device: DeviceChoice) -> Crew:
    """Who works, as the options say."""
    from mri_unroll.cohort.hiring import Crew

    return Crew(workers=workers, cluster=cluster, threads=threads, device=device)


def shard_named(text: str | None) -> Shard | None:
    """The part of a folder that an option names."""
    from mri_unroll.cohort.tasks import parse_shard

    return None if text is None else parse_shard(text)


@dataclass(frozen=True, slots=True)
class FolderOptions:
    """Options that only a folder takes."""

    workers: int | None
    cluster: str | None
    shard: str | None
    resume: bool
    skip_bad: bool

    def refuse_for_one_file(self) -> None:
        """See to it that none is set.

        Raises
        ------
        ConfigError
            If one is.
        """
        if odd := [f"--{field.name.replace('_', '-')}" for field in fields(self) if getattr(self, field.name)]:
            raise ConfigError(f"For a single file there is no use for {', '.join(odd)}.", "Leave it out.")


def recon_folder(
    folder: Path,
    out: Path,
    config: ReconstructionConfig,
    layout: str | None,
    threads: int | None,
    options: FolderOptions,
    as_json: bool,
) -> list[dict[str, Any]]:
    """Reconstruct every scan of a folder; the volumes written go to stdout as they are finished.

    Returns
    -------
    The sidecars of what was reconstructed now.
    """
    with listening(as_json) as events:
        title = f"reconstructing the scans in {folder.name} with {config.method}"
        events({"event": "start", "version": __version__, "input": folder.name, "title": title})
        from mri_unroll.cohort.reconstruction import reconstruct_folder

        found = reconstruct_folder(
            folder,
            out,
            config,
            layout=layout,
            crew=make_crew(options.workers, options.cluster, threads, config.device),
            shard=shard_named(options.shard),
            resume=options.resume,
            events=telling(putting_volumes(events, as_json)),
        )
    counts = {"reconstructed": len(found.outcomes), "finished_before": found.finished, "bad": len(found.bad)}
    if as_json:
        put_json({"event": "done", "folder": str(out), **counts})
    spoken = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
    summaries = [outcome.summary for outcome in found.outcomes]
    answers = Counter(summary["verdict"] for summary in summaries if summary["verdict"])
    verdicts = ", ".join(f"{count} {answer}" for answer, count in sorted(answers.items()))
    tell(f"{folder.name}: {spoken}; {f'verdicts: {verdicts}' if verdicts else NO_VERDICT}; {RESEARCH}")
    conclude(found.bad, options.skip_bad)
    return summaries


def putting_volumes(events: Events, as_json: bool) -> Events:
    """Events as they are, but for volumes, whose paths go to stdout as they are written."""

    def heard(event: dict[str, Any]) -> None:
        if event["event"] == "file" and not as_json:
            put(event["paths"]["volume"])
        events(event)

    return heard


def telling(events: Events) -> Events:
    """Events as they are, but for what has to be said at once, on stderr: bad files and lost workers."""

    def heard(event: dict[str, Any]) -> None:
        if event["event"] == "bad-file":
            by = f" by {event['method']}" if event.get("method") else ""
            tell(f"not done{by}: {event['file']}: {event['reason']}")
        elif event["event"] == "worker" and event["state"] == "lost":
            held = f" while it worked on {event['files'][0]}" if event["files"] else ""
            tell(f"a worker was lost{held}: {event['reason']}; its work is done again")
        events(event)

    return heard


def conclude(bad: Sequence[Bad], skip_bad: bool) -> None:
    """End with the exit code that bad files ask for.

    Raises
    ------
    typer.Exit
        With 70 if one of them met a bug, with 2 if there are any and ``skip_bad`` is not set.
    """
    from mri_unroll.cohort.tasks import BUG as BUG_KIND

    if any(each.kind.startswith(BUG_KIND) for each in bad):
        tell("error: some files met a bug of mri_unroll, see above.")
        raise typer.Exit(BUG)
    if bad and not skip_bad:
        n_files = len({each.file for each in bad})
        tell(f"error: {n_files} of the files could not be done, see above; with --skip-bad this is no error.")
        raise typer.Exit(BAD_INPUT)
