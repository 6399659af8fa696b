"""How far a run is, on a terminal: answers done, tokens a second, time left; elsewhere nothing is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from labeling.budget import Watch, unwatched


def on_terminal() -> bool:
    """Return whether stderr, where bars are shown, is a terminal."""
    from rich.console import Console

    return Console(stderr=True).is_terminal


@contextmanager
def progress_bar(title: str, shown: bool) -> Iterator[Watch]:
    """Show a bar on stderr; what is told to the `Watch` moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if not shown:
        yield unwatched
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        bar.add_task(title, total=0, speed="", tokens=0)
        (task,) = bar.tasks

        def watch(*, wanted: int = 0, done: int = 0, tokens: int = 0) -> None:
            task.fields["tokens"] += tokens
            speed = f"{task.fields['tokens'] / max(task.elapsed or 0.0, 1e-3):,.0f} tokens/s"
            bar.update(task.id, total=(task.total or 0) + wanted, advance=done, speed=speed)

        yield watch
