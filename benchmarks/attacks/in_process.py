"""Send mutated requests to the application itself, without a server.

Usage: `python -m benchmarks.attacks.in_process --count 9`. The limits are small, so that expensive requests are refused
and many requests take little time. Each fault is printed with the options that repeat it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.attacks.judge import fault_of
from benchmarks.attacks.mutator import Attempt, Described, Mutator

ROOT = Path(__file__).resolve().parent.parent.parent
MAX_SECONDS = 1.5
HANG = MAX_SECONDS + 3.0
REPEATED = 25
"""One request of this number is sent twice: both answers must be the same bytes."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks.in_process", description=__doc__)
    parser.add_argument("--checkout", type=Path, default=ROOT, help="whose service is asked (default: this one)")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="send just the request of this number, and show it")
    options = parser.parse_args()
    sys.path.insert(0, str(options.checkout))
    from service.app import create_app
    from service.config import Settings

    warnings.simplefilter("error")
    folder = TemporaryDirectory()
    settings = Settings(
        log_requests=False,
        max_seconds=MAX_SECONDS,
        max_operations=10**9,
        max_steps=3000,
        max_workspace_bytes=64 << 20,
        max_unfinished_runs=options.count,
        data=folder.name,
    )
    client = create_app(settings).test_client()
    described = Described.of(client.get("/openapi.json").get_json())
    mutator = Mutator(described, options.seed)

    def send(attempt: Attempt) -> tuple[int, dict[str, str], bytes]:
        content_type = attempt.headers.get("Content-Type")
        answer = client.open(
            attempt.path,
            method=attempt.method,
            data=attempt.body,
            content_type=content_type,
            headers={name: text for name, text in attempt.headers.items() if name != "Content-Type"},
            buffered=True,
        )
        body = answer.get_data()
        answer.close()
        return answer.status_code, {name.lower(): text for name, text in answer.headers.items()}, body

    statuses: Counter[int] = Counter()
    faults: Counter[str] = Counter()
    repeated, slowest, start = 0, 0.0, time.monotonic()
    for number, attempt in enumerate(mutator):
        if number >= options.count:
            break
        if options.only is not None and number != options.only:
            continue
        began = time.monotonic()
        fault: str | None
        status = 0
        try:
            status, headers, body = send(attempt)
            if options.only is not None:
                print(attempt, status, headers, body.decode(errors="replace")[:3000], sep="\n")
            fault = fault_of(attempt.method, status, headers, body, attempt.value)
            took = time.monotonic() - began
            slowest = max(slowest, took)
            if took > HANG:
                fault = f"took {took:.1f} s"
            # A form that streams says how long a step took; documents are the same bytes.
            streamed = attempt.headers.get("Accept", "") in ("application/x-ndjson", "text/event-stream")
            # The page of metrics counts, and what took too long may be in time the next time.
            if fault is None and number % REPEATED == 0 and status < 500 and not streamed and attempt.method == "POST":
                repeated += 1
                _, _, again = send(attempt)
                if status == 200 and again != body and b'"cancelled"' not in body + again:
                    fault = "another answer to the same request"
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"[:200]
        statuses[status] += 1
        if fault is not None:
            key = f"{fault} at {attempt.path[:60]}"
            faults[key] += 1
            if faults[key] <= 2:
                shown = (attempt.body or b"").strip()[:600]
                print(f"FAULT --seed {options.seed} --only {number}: {key} {attempt.kinds} {attempt.headers} {shown!r}")
                sys.stdout.flush()
    seconds = time.monotonic() - start
    client.application.extensions["nabla.store"].close()
    folder.cleanup()
    summary = {
        "requests": sum(statuses.values()),
        "statuses": dict(sorted(statuses.items())),
        "faults": dict(faults),
        "repeated": repeated,
        "slowest": round(slowest, 2),
        "seconds": round(seconds, 1),
    }
    print(json.dumps(summary))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
