"""Random mistakes in HTTP itself: sequences of requests with changed bytes in heads and chunks, and cut anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter

from benchmarks.attacks.bodies import XOR, packed
from benchmarks.attacks.client import FAILURES, Answer, connect, get, head, post, read_answer
from benchmarks.attacks.judge import fault_of

SPECIAL = (b"\r", b"\n", b"\r\n", b":", b" ", b"\t", b"\0", b"\xff", b"0", b"9", b";", b",", b"-", b"%", b"_", b"\x7f")
LINES = (
    *(b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length: +5\r\n", b"Content-Length: 0x5\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked, chunked\r\n", b"Transfer-Encoding:chunked \r\n"),
    *(
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer_Encoding: chunked\r\n",
        b"Host: b\r\n",
        b"Host:\r\n",
        b" folded\r\n",
    ),
    *(
        b"Expect: 100-continue\r\n",
        b"Expect: 200-ok\r\n",
        b"Connection: keep-alive, close\r\n",
        b"Upgrade: websocket\r\n",
    ),
    *(b"X: " + b"a" * 9000 + b"\r\n", b": empty\r\n", b"NoColon\r\n", b"SCRIPT_NAME: /x\r\n", b"Range: bytes=0-0\r\n"),
)
TARGETS = (
    b"*",
    b"http://x/health/live",
    b"/%zz",
    b"/%00",
    b"//health/live",
    b"/health/live?" + b"q" * 9000,
    b"",
    b"?x",
)
DEADLINE = 12.0
"""Seconds after which a connection that says nothing hangs: more than every deadline of the server below."""
SETTINGS = {f"NABLA_MAX_{name}_SECONDS": "1" for name in ("HEADER", "BODY", "SEND")} | {"NABLA_LOG_REQUESTS": "false"}


class Framing:
    """A generator of random request sequences in which one request is wrong; a seed gives the same sequences again."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def _request(self) -> bytes:
        dice = self.random
        body = packed(XOR)
        kind = dice.randrange(4)
        if kind == 0:
            return get(dice.choice(("/health/live", "/v1/losses", "/nothing", "/docs/")))
        if kind == 1:
            return post("/v1/gradients", body)
        if kind == 2:
            return head(dice.choice(("OPTIONS", "DELETE", "PUT")), "/v1/gradients", 3) + b"{} "
        size = dice.choice((1, 7, 100, 1000))
        pieces = [body[start : start + size] for start in range(0, len(body), size)]
        chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(p), dice.choice((b"", b"", b";a=b")), p) for p in pieces) + b"0\r\n"
        end = dice.choice((b"\r\n", b"\r\n", b"Trailer: x\r\n\r\n", b"bad trailer\r\n\r\n"))
        headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
        return head("POST", "/v1/gradients", None, headers) + chunks + end

    def _wrong(self, request: bytes) -> bytes:
        dice = self.random
        kind = dice.randrange(6)
        end = request.find(b"\r\n\r\n") + 4
        if kind == 0:
            place = dice.randrange(len(request))
            return request[:place] + dice.choice(SPECIAL) + request[place + dice.randrange(2) :]
        if kind == 1:
            place = dice.randrange(end)
            return request[:place] + dice.choice(SPECIAL) + request[place:]
        if kind == 2:
            line = request.find(b"\r\n") + 2
            return request[:line] + dice.choice(LINES) + request[line:]
        if kind == 3:
            method, _, rest = request.partition(b" ")
            _, _, version = rest.partition(b" ")
            return method + b" " + dice.choice(TARGETS) + b" " + version
        if kind == 4:
            version = dice.choice((b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"http/1.1", b"HTTP/1.1 ", b""))
            return request.replace(b"HTTP/1.1", version, 1)
        return request[: dice.randrange(len(request))]

    def next(self) -> tuple[list[bytes], int]:
        """Return the next sequence, in the parts in which to send it, and the number of requests it was made from."""
        dice = self.random
        count = dice.choice((1, 1, 2, 3))
        requests = [self._request() for _ in range(count)]
        place = dice.randrange(count)
        requests[place] = self._wrong(requests[place])
        data = b"".join(requests)
        cuts = sorted(dice.randrange(len(data) + 1) for _ in range(dice.choice((0, 0, 1, 3))))
        return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)], count


async def _try(port: int, parts: list[bytes]) -> tuple[list[Answer], str | None]:
    """Send the parts over a new connection; return the responses, and in words what went wrong on it, or None."""
    answers: list[Answer] = []
    connection = await connect(port)
    start = time.perf_counter()
    try:
        for part in parts:
            connection.send(part)
            await asyncio.sleep(0.002)
        # Whoever has said all closes its side; what is still due comes, and then the end.
        with contextlib.suppress(OSError):
            connection.writer.write_eof()
        while True:
            async with asyncio.timeout(DEADLINE):
                answers.append(await read_answer(connection, start))
    except asyncio.IncompleteReadError as error:
        return answers, f"ends with {error.partial[:60]!r}" if error.partial else None
    except ConnectionError:
        return answers, None
    except TimeoutError:
        return answers, "hangs"
    except FAILURES as error:
        return answers, f"{type(error).__name__}: {error}"
    finally:
        connection.reset()


def fault_among(answers: list[Answer], count: int) -> str | None:
    """Return in words what is wrong with the responses to `count` requests, or None."""
    # A body that was cut off may be taken for further requests by its own fault, but only for wrong ones.
    if sum(answer.status < 400 for answer in answers) > count:
        return f"{len(answers)} answers to {count} requests"
    for answer in answers:
        fault = fault_of("GET", answer.status, answer.headers, answer.body) if answer.whole else None
        if fault is not None:
            return fault
    return None


async def storm(port: int, count: int, seed: int, clients: int = 8) -> tuple[Counter[str], Counter[str]]:
    """Send `count` random sequences; return the count of each status and of each fault."""
    framing = Framing(seed)
    statuses: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    left = iter(range(count))

    async def client() -> None:
        for _ in left:
            parts, meant = framing.next()
            answers, trouble = await _try(port, parts)
            statuses.update(str(answer.status) for answer in answers)
            if not answers:
                statuses["closed"] += 1
            fault = trouble or fault_among(answers, meant)
            if fault is not None:
                faults[f"{fault}: {b''.join(parts)[:300]!r}"] += 1

    await asyncio.gather(*(client() for _ in range(clients)))
    return statuses, faults
