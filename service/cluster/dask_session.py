"""One connection to the scheduler of a Dask cluster, and the parts that its workers compute.

Dask moves bytes and sees which workers are there; which of them computes a part is decided here. A worker serves only
if its numerics have the fingerprint of this process, and each part is compared once more where it is computed. The
parts of a lost worker are computed by others. What a part shares with others travels once to each worker.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from typing import Any

from service.cluster.at_worker import OTHER, SHARED_BYTES, Report, compute, report
from service.cluster.process import RAISED
from service.engine.fingerprint import describe, fingerprint
from service.problems import Problem, retry_after

ATTEMPTS = 4
"""The most times that a part is computed whose workers are lost: it may be the part that kills them."""
ANSWER_SECONDS = 5.0
"""Seconds until the scheduler or a worker has answered a question."""
LOOK_SECONDS = 0.5
"""Seconds between two looks at who is there, as long as parts are computed."""
PATIENCE = 5.0
"""Seconds that parts wait for another worker when all are lost."""
LARGE_CALL = 2**20
"""Bytes of a call beyond which it goes to its worker directly, and not through the scheduler's list of tasks."""
SHOWN = 5
"""The most workers that a problem names."""

log = logging.getLogger("nabla.error")


def away() -> Problem:
    """Return the problem of a scheduler that cannot be reached."""
    detail = "The cluster that computes large requests of this server cannot be reached. Smaller requests work."
    return Problem("cluster-unavailable", detail, headers=retry_after(ANSWER_SECONDS))


class Shared:
    """An argument that stands for a value. It holds the value, because another worker may need it."""

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value


class Part(Future[Any]):
    """A part of a computation: the pickle of the call, the values that it shares with others, and its result."""

    def __init__(self, call: bytes, values: tuple[Shared, ...]) -> None:
        super().__init__()
        self.call = call
        self.values = values
        self.worker = ""
        """The address of the worker that computes it."""
        self.take_back: Callable[[], object] = lambda: None

    def cancel(self) -> bool:
        """Give the part up. If it is computed already, that ends at its next look at its watch."""
        given_up = super().cancel()
        if given_up:
            self.take_back()
        return given_up


class _Sent:
    """A shared value at one worker."""

    def __init__(self) -> None:
        self.at: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        """Dask's future of the value, once it is there."""
        self.nbytes = 0

    @property
    def usable(self) -> bool:
        """Whether the value is on its way to the worker, or there."""
        return not self.at.done() or (self.at.exception() is None and self.at.result().status == "finished")


class Session:
    """A client of the scheduler. Most of its state belongs to the thread of the client's event loop."""

    def __init__(self, client: Any) -> None:
        """Begin with a `distributed.Client` that is connected, and ask all workers for their fingerprints. Raises
        `OSError`."""
        self.client = client
        self.broken = False
        """Whether the connection is lost or closed; it stays so."""
        self.reports: dict[str, Report] = {}
        """The report of each worker, by its address."""
        self._threads: dict[str, int] = {}
        """The threads of the workers that are there, by address. Replaced, never changed: other threads read it."""
        self._values: OrderedDict[tuple[str, str], _Sent] = OrderedDict()
        """The values at workers, by address and name; the one used last comes last."""
        self._parts: dict[Part, asyncio.Task[None]] = {}
        self._looked = 0.0
        self._served = -PATIENCE
        """When there was a worker that fits."""
        self._looking: asyncio.Task[None] | None = None
        try:
            self.look_if_old()
        except BaseException:
            self.close()
            raise

    # The next ones are for all threads.

    @property
    def fitting(self) -> list[str]:
        """The addresses of the workers that compute the bits of this process."""
        own, reports = fingerprint(), self.reports.copy()
        return [address for address in self._threads if address in reports and reports[address].fingerprint == own]

    @property
    def width(self) -> int:
        """The number of parts that are computed at once; 1 while the workers have just been lost."""
        threads = self._threads
        return max(1, sum(threads.get(address, 0) for address in self.fitting))

    def refuse_without_workers(self) -> None:
        """Raise `Problem` 503 that names the workers if none of them fits, and none did a moment ago."""
        if not self.fitting and time.monotonic() > self._served + PATIENCE:
            raise self._none_fits()

    def look_if_old(self) -> None:
        """Ask who is there if the last answer is old. Raise `OSError` if the scheduler is gone."""
        if time.monotonic() - self._looked <= 2 * LOOK_SECONDS:
            return
        question = self._look()
        try:
            answer = asyncio.run_coroutine_threadsafe(question, self.client.loop.asyncio_loop)
        except RuntimeError:  # the loop is closed
            question.close()
            raise OSError("the connection is closed") from None
        try:
            answer.result(3 * ANSWER_SECONDS)
        except (OSError, TimeoutError, CancelledError) as error:
            answer.cancel()
            self.close()
            raise OSError(str(error) or "no answer") from None

    def begin(self, part: Part) -> None:
        """Let a worker compute a part."""
        try:
            self.client.loop.asyncio_loop.call_soon_threadsafe(self._start, part)
        except RuntimeError:  # the loop is closed
            part.set_exception(away())

    def forget(self, name: str) -> None:
        """Let the workers drop the value of this name."""
        with suppress(RuntimeError):  # the loop is closed
            self.client.loop.asyncio_loop.call_soon_threadsafe(self._drop, name)

    def close(self) -> None:
        """End the connection, and fail all parts. This does not wait for Dask, which waits for what does not answer."""
        if not self.broken:
            self.broken = True
            threading.Thread(target=self._end, daemon=True).start()

    def _end(self) -> None:
        with suppress(RuntimeError):
            self.client.loop.asyncio_loop.call_soon_threadsafe(self._fail_all)
        with suppress(Exception):
            self.client.close(timeout=ANSWER_SECONDS)
        self._fail_all()  # those that Dask left over

    def _fail_all(self) -> None:
        for part in [*self._parts]:
            _settle(part, away())
            part.take_back()

    def _none_fits(self) -> Problem:
        threads, own = self._threads, describe()
        if not threads:
            detail = "The cluster that computes large requests of this server has no worker."
            return Problem("cluster-unavailable", detail, headers=retry_after(ANSWER_SECONDS))
        reports = self.reports.copy()
        named = [f"{address}: {reports[address].about}" for address in [*threads][:SHOWN] if address in reports]
        more = f", and {len(threads) - SHOWN} more" if len(threads) > SHOWN else ""
        detail = (
            f"No worker of the cluster computes the bits of this server, {own}. There are {'; '.join(named)}{more}. "
            "Start workers from the image of this server, on the same type of processor, or give all of them one type "
            "by OPENBLAS_CORETYPE."
        )
        return Problem("cluster-unavailable", detail, headers=retry_after(ANSWER_SECONDS))

    # From here on everything runs in the thread of the event loop.

    def _start(self, part: Part) -> None:
        if self.broken:
            _settle(part, away())
            return
        loop = asyncio.get_running_loop()
        task = self._parts[part] = loop.create_task(self._finish(part))
        part.take_back = lambda: loop.call_soon_threadsafe(task.cancel)
        if part.cancelled():
            task.cancel()
        if self._looking is None:
            self._looking = loop.create_task(self._keep_looking())

    async def _look(self) -> None:
        """Learn which workers are there, and ask the new ones for their fingerprints. Raise `OSError`."""
        try:
            threads = await asyncio.wait_for(self.client.scheduler.ncores_running(workers=None), ANSWER_SECONDS)
            new = [address for address in threads if address not in self.reports]
            if new:
                await self._ask(new)
        except (OSError, TimeoutError, CancelledError):
            raise
        except Exception as error:  # whatever Dask makes of a scheduler that is gone
            raise OSError(f"{type(error).__name__}: {error}") from None
        self._threads = {address: threads[address] for address in sorted(threads)}
        for address in [address for address in self.reports if address not in threads]:
            del self.reports[address]
        self._looked = time.monotonic()
        if self.fitting:
            self._served = self._looked
        for key in [key for key in self._values if key[0] not in threads]:
            del self._values[key]
        for part, task in self._parts.items():
            if part.worker and part.worker not in threads:
                task.cancel()

    async def _ask(self, addresses: list[str]) -> None:
        """Ask workers for their fingerprints."""
        question = self.client.run(report, workers=addresses, on_error="return")
        said = await asyncio.wait_for(question, ANSWER_SECONDS)
        for address in addresses:
            answer = said.get(address)
            if not isinstance(answer, Report):
                answer = Report("", f"it cannot tell its fingerprint, {answer!r:.200}")
            self._note(address, answer)

    def _note(self, address: str, said: Report) -> None:
        self.reports[address] = said
        if said.fingerprint != fingerprint():
            log.warning("the worker %s does not serve: %s", address, said.about)

    async def _keep_looking(self) -> None:
        """Look who is there as long as there are parts: the parts of those who are gone begin anew elsewhere."""
        while self._parts and not self.broken:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look()
            except (OSError, TimeoutError, CancelledError) as error:
                log.error("the connection to the cluster is lost: %s", error or "no answer")
                self.close()
        self._looking = None

    async def _finish(self, part: Part) -> None:
        """Let workers compute a part until one succeeds."""
        try:
            for _ in range(ATTEMPTS):
                try:
                    await self._attempt(part)
                except (asyncio.CancelledError, CancelledError, OSError) as error:
                    if part.done():
                        break
                    # Its worker is gone, or what it shares with others was lost with another worker.
                    log.warning("a part of the worker %s is lost, and computed again: %s", part.worker, error)
                    await self._recover(part)
                if part.done():
                    break
            _settle(part, _lost())
        except Exception as error:
            # Dask has errors of its own for a client that it has closed.
            _settle(part, error if self.client.status == "running" else away())
        finally:
            part.take_back = lambda: None
            part.call, part.values = b"", ()
            self._parts.pop(part, None)

    async def _recover(self, part: Part) -> None:
        task = self._parts[part]
        while task.cancelling():
            task.uncancel()
        for shared in part.values:
            self._values.pop((part.worker, shared.name), None)
        part.worker = ""
        try:
            await self._look()
        except (OSError, TimeoutError, CancelledError) as error:  # it is the scheduler that is gone
            log.error("the connection to the cluster is lost: %s", error or "no answer")
            self.close()
            _settle(part, away())

    async def _attempt(self, part: Part) -> None:
        """Compute a part at one worker. Raises `CancelledError` of one kind or the other if the worker is lost."""
        address = part.worker = await self._choose(part)
        at = [await self._at(address, shared) for shared in part.values]
        call = part.call if len(part.call) <= LARGE_CALL else await self._scatter(part.call, address)
        names = [shared.name for shared in part.values]
        keys = [each.key for each in at]
        future = self.client.submit(
            compute, fingerprint(), call, names, keys, *at, workers=[address], pure=False, key=_unique("part")
        )
        try:
            kind, result = pickle.loads(await future)
        except (CancelledError, OSError):
            raise
        except Exception as error:
            if type(error).__name__ == "KilledWorker":
                raise OSError(str(error)) from None
            _settle(part, error)  # it could not be read, here or there
            return
        if kind == OTHER:
            self._note(address, result)
        elif kind == RAISED:
            _settle(part, result)
        elif not part.done():
            with suppress(InvalidStateError):
                part.set_result(result)

    async def _choose(self, part: Part) -> str:
        """Return the worker with the least to do for its threads; of these, one that has what the part shares."""
        end = time.monotonic() + PATIENCE
        while not self.fitting:
            if time.monotonic() >= end or self.broken:
                raise self._none_fits()
            await asyncio.sleep(LOOK_SECONDS)
            with suppress(OSError, TimeoutError, CancelledError):
                await self._look()
        busy = dict.fromkeys(self.fitting, 0)
        for other in self._parts:
            if other.worker in busy:
                busy[other.worker] += 1

        def rank(address: str) -> tuple[float, int, str]:
            keys = [(address, shared.name) for shared in part.values]
            held = sum(self._values[key].nbytes for key in keys if key in self._values)
            return busy[address] // max(1, self._threads[address]), -held, address

        return min(busy, key=rank)

    async def _at(self, address: str, shared: Shared) -> Any:
        """Return Dask's future of a value at a worker, which it is sent to if it is not there yet."""
        key = (address, shared.name)
        sent = self._values.get(key)
        if sent is None or not sent.usable:
            sent = self._values[key] = _Sent()
            sent.at = asyncio.ensure_future(self._send(shared, address, sent))
            sent.at.add_done_callback(lambda done: done.cancelled() or done.exception())  # others may have given up
        self._values.move_to_end(key)
        return await asyncio.shield(sent.at)

    async def _send(self, shared: Shared, address: str, sent: _Sent) -> Any:
        pickled = await asyncio.to_thread(pickle.dumps, shared.value, 5)
        sent.nbytes = len(pickled)
        self._make_room(address)
        return await self._scatter(pickled, address)

    def _drop(self, name: str) -> None:
        for key in [key for key in self._values if key[1] == name]:
            del self._values[key]

    def _make_room(self, address: str) -> None:
        """Forget the values at a worker that were unused for longest. Parts that use one hold it on their own."""
        held = [key for key in self._values if key[0] == address]
        total = sum(self._values[key].nbytes for key in held)
        for key in held[:-1]:
            if total <= SHARED_BYTES:
                break
            total -= self._values.pop(key).nbytes

    async def _scatter(self, value: Any, address: str) -> Any:
        """Send a value to a worker; return Dask's future of it."""
        key = _unique("value")
        futures = await self.client.scatter({key: value}, workers=[address], direct=True)
        return futures[key]


def _unique(kind: str) -> str:
    return f"nabla-{kind}-{uuid.uuid4().hex}"


def _settle(part: Part, error: BaseException) -> None:
    """Give a part an exception, unless it has a result or is given up."""
    if not part.done():
        with suppress(InvalidStateError):
            part.set_exception(error)


def _lost() -> Problem:
    detail = f"The workers that compute parts of this request were lost {ATTEMPTS} times before they were done."
    return Problem("cluster-unavailable", detail, headers=retry_after(ANSWER_SECONDS))
