"""Row-wise voters spread over processes, whatever notebook, closure or lambda they come from."""

from __future__ import annotations

import functools
import importlib.machinery
import itertools
import math
import pickle
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

from labeling.casting import Cast, OnError, cast
from labeling.errors import VoterError
from labeling.voters import Voter

MAX_CHUNK = 1000


@dataclass(frozen=True)
class Failure:
    """A VoterError on its way home from a worker."""

    message: str
    cause: bytes | None
    """The exception a function raised, pickled; None where it returned what is no vote."""


def cpu_count() -> int:
    """Return how many processes may run at once here (affinity and container limits count)."""
    import joblib

    return int(joblib.cpu_count())


def spread(payload: bytes, table: pa.Table, start: int, on_error: OnError, workers: int) -> Iterator[Cast]:
    """Yield in order what the packed voters say of rows `start` on of `Pairs.voter_table()`, run in processes."""
    from joblib.externals.loky import BrokenProcessPool, get_reusable_executor

    executor = get_reusable_executor(max_workers=workers, timeout=60)
    size = min(MAX_CHUNK, math.ceil((table.num_rows - start) / (4 * workers)))
    tasks = ((_to_ipc(table.slice(i, size)), i) for i in range(start, table.num_rows, size))
    running: deque[Future[Cast | Failure]] = deque()
    try:
        while True:
            for chunk, i in itertools.islice(tasks, 2 * workers - len(running)):
                running.append(executor.submit(_work, payload, chunk, i, on_error))
            if not running:
                return
            while not wait([running[0]], timeout=0.1).done:
                pass  # an endless wait might not hear Ctrl-C
            result = running.popleft().result()
            if isinstance(result, Failure):
                raise VoterError(result.message) from (None if result.cause is None else pickle.loads(result.cause))
            yield result
    except BrokenProcessPool as error:
        raise VoterError("a worker process died, perhaps for want of memory; pass workers=1 to vote in one") from error
    finally:
        if not all(future.done() for future in running):
            _stop(executor, running)


def _stop(executor: Any, running: Sequence[Future[Any]]) -> None:
    """Kill the workers; not before every chunk has been handed on, for loky's thread dies of one that has not."""
    deadline = time.monotonic() + 2
    while not all(future.running() or future.done() for future in running) and time.monotonic() < deadline:
        time.sleep(0.001)
    executor.shutdown(wait=True, kill_workers=True)


def pack(voters: Sequence[Voter]) -> bytes:
    """Pickle voters by value where a worker could not import them; raise VoterError naming one that cannot be."""
    import cloudpickle

    with ExitStack() as stack:
        for module in _homes(voters):
            cloudpickle.register_pickle_by_value(module)
            stack.callback(cloudpickle.unregister_pickle_by_value, module)
        try:
            return pickle.dumps((sys.path, cloudpickle.dumps(list(voters))))
        except Exception as error:
            guilty = next((voter.name for voter in voters if not _packs(voter)), "")
            raise VoterError(
                f"voter {guilty!r} cannot be sent to worker processes ({error}); make what it uses inside the "
                "function, or pass workers=1"
            ) from error


def _packs(voter: Voter) -> bool:
    import cloudpickle

    try:
        cloudpickle.dumps(voter)
    except Exception:
        return False
    return True


def _homes(voters: Sequence[Voter]) -> list[ModuleType]:
    """Return the loaded modules that a worker could not import by name: where the voters' functions live, and the files
    these modules take something from."""
    functions = [getattr(voter, "function", voter) for voter in voters]
    names = {getattr(getattr(function, "_f", function), "__module__", None) for function in functions}
    found: dict[str, ModuleType] = {}
    left = [sys.modules[name] for name in sorted(name for name in names if name) if name in sys.modules]
    while left:
        module = left.pop()
        if module.__name__ not in ("__main__", *found) and not _importable(module):
            found[module.__name__] = module
            others = map(_module_of, vars(module).values())
            left += [other for other in others if other is not None and _is_file(other)]
    return list(found.values())


def _is_file(module: ModuleType) -> bool:
    return bool(getattr(module, "__file__", None)) and sys.modules.get(module.__name__) is module


def _module_of(value: Any) -> ModuleType | None:
    if isinstance(value, ModuleType):
        return value
    name = getattr(value, "__module__", None)
    return sys.modules.get(name) if isinstance(name, str) else None


def _importable(module: ModuleType) -> bool:
    top, file = module.__name__.partition(".")[0], getattr(module, "__file__", None)
    finders: list[Any] = [importlib.machinery.PathFinder, *filter(_is_of_an_editable_install, sys.meta_path)]
    found = next((spec for finder in finders if (spec := finder.find_spec(top, None)) is not None), None)
    if found is None or file is None:
        return found is not None
    places = [Path(place) for place in found.submodule_search_locations or [found.origin or ""]]
    return any(Path(file).is_relative_to(place) for place in places)


def _is_of_an_editable_install(finder: Any) -> bool:
    """Whether a finder is there in every process of this Python, by a .pth file beside the installed packages."""
    home = finder.__module__ if isinstance(finder, type) else type(finder).__module__
    return "editable" in home


def _work(payload: bytes, chunk: bytes, start: int, on_error: OnError) -> Cast | Failure:
    try:
        voters = _unpacked(payload)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        return Failure(f"the voters cannot be loaded in a worker process ({what}); pass workers=1", None)
    try:
        return cast(voters, pa.ipc.open_stream(chunk).read_all(), start, on_error)
    except VoterError as error:
        return Failure(str(error), None if error.__cause__ is None else _preserved(error.__cause__))


@functools.lru_cache(maxsize=1)
def _unpacked(payload: bytes) -> list[Voter]:
    """Unpickle the voters once a worker, so that what they memoize lasts from chunk to chunk."""
    places, packed = pickle.loads(payload)
    sys.path += [place for place in places if place not in sys.path]  # the process may be older than some of them
    voters: list[Voter] = pickle.loads(packed)
    return voters


def _preserved(error: BaseException) -> bytes:
    import cloudpickle

    text = "".join(traceback.format_exception(error))
    error.add_note(f"In a worker process:\n{text}")
    try:
        packed = bytes(cloudpickle.dumps(error))
        pickle.loads(packed)  # fails where the constructor wants more than the exception's args
    except Exception:
        packed = bytes(cloudpickle.dumps(RuntimeError(text)))
    return packed


def _to_ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())
