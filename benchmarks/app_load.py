"""The page under many visitors at a time: python benchmarks/app_load.py [--clients 32] [--seconds 60] [--size 256].

Starts a Hub and the app on this machine, with a model of full width and random weights. Each client asks for one
picture after another as fast as they come, over HTTP like a browser: mostly seeds, some mixes, some moves along
directions, and now and then a film that it gives up on. Prints what came back, how quickly, and the server's memory:
what it holds while requests run swings by tens of MiB, so the growth is the slope of a line through the lowest reading
of each window, and it is said to grow when that slope is more than twice its own standard error, and worth a MiB.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ["HF_HUB_DISABLE_XET"] = "1"  # the local Hub speaks plain HTTP only, and this is read at import

import httpx  # noqa: E402
import numpy as np  # noqa: E402
import psutil  # noqa: E402

from tests.app_server import demo_running  # noqa: E402

WINDOW = 10  # seconds of which the lowest reading of the memory counts
MIX = (("sample", 12), ("mix_pair", 4), ("explore", 3), ("interpolate", 1))  # what is asked for, how often


def question(kind: str, repo: str) -> list:
    seed = str(random.randrange(10**6))
    return {
        "sample": [repo, 1, int(seed), 1],
        "mix_pair": [repo, 1, seed, "7", ["64", "128", "256"], 0.5],
        "explore": [repo, 1, seed, 3, *[0] * 9],
        "interpolate": [repo, 1, f"{seed},1", 120, "spherical", "even", True, 24, [], "", "nothing"],
    }[kind]


async def visit(client: httpx.AsyncClient, repo: str, until: float, seconds: dict, errors: list) -> None:
    """One visitor, who waits for each answer and then asks again."""
    kinds, weights = zip(*MIX, strict=True)
    while time.monotonic() < until:
        [kind] = random.choices(kinds, weights)
        begin = time.monotonic()
        try:
            asked = await client.post(f"/gradio_api/call/{kind}", json={"data": question(kind, repo)})
            event = asked.raise_for_status().json()["event_id"]
            last = ""
            async with client.stream("GET", f"/gradio_api/call/{kind}/{event}") as answer:
                async for line in answer.aiter_lines():
                    last = line.removeprefix("event: ") if line.startswith("event: ") else last
                    if kind == "interpolate" and last == "generating":
                        break  # this visitor has seen enough and goes away
                    if last in ("complete", "error") and line.startswith("data: "):
                        if last == "error":
                            raise RuntimeError(line)
                        url = first_url(json.loads(line.removeprefix("data: ")))
                        (await client.get(url)).raise_for_status()
                        break
            seconds[kind].append(time.monotonic() - begin)
        except (httpx.HTTPError, RuntimeError, KeyError) as error:
            errors.append(f"{kind}: {type(error).__name__} {error}")


def growth(minutes: np.ndarray, mib: np.ndarray) -> tuple[float, float]:
    """The slope of a line through readings, in MiB a minute, and its standard error."""
    (slope, _), covariance = np.polyfit(minutes, mib, 1, cov=True)
    return slope, float(np.sqrt(covariance[0, 0]))


def first_url(data: object) -> str:
    """The address of the first file in an answer."""
    if isinstance(data, dict):
        if "url" in data:
            return data["url"]
        data = list(data.values())
    for part in data if isinstance(data, list) else []:
        if url := first_url(part):
            return url
    return ""


async def measure(
    address: str, repo: str, clients: int, warm_up: float, duration: float, server: psutil.Process
) -> None:
    seconds, errors, memory = defaultdict(list), [], []
    duration += warm_up
    limits = httpx.Limits(max_connections=2 * clients, max_keepalive_connections=2 * clients)
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits, trust_env=False) as client:
        begin = time.monotonic()
        visitors = [visit(client, repo, begin + duration, seconds, errors) for _ in range(clients)]
        running = asyncio.gather(*visitors)
        while not running.done():
            memory.append((time.monotonic() - begin, server.memory_info().rss / 2**20))
            await asyncio.wait([running], timeout=1)
        took = time.monotonic() - begin
    answered = sum(map(len, seconds.values()))
    print(
        f"{clients} clients, {took:.0f} s, {os.cpu_count()} cores: {answered} answers, {answered / took:.1f} a second"
    )
    for kind, values in sorted(seconds.items()):
        p50, p90, p99 = np.percentile(values, (50, 90, 99))
        print(f"{kind:12} {len(values):5} answers, seconds: {p50:.2f} median, {p90:.2f} p90, {p99:.2f} p99")
    print(f"errors: {len(errors)}", *sorted(set(errors))[:5], sep="\n  " if errors else " ")
    lowest = defaultdict(lambda: float("inf"))
    for at, mib in memory:
        if at < duration:
            lowest[int(at // WINDOW)] = min(mib, lowest[int(at // WINDOW)])
    print("memory, MiB in each", WINDOW, "s:", " ".join(f"{lowest[window]:.0f}" for window in sorted(lowest)))
    warm = [(window * WINDOW / 60, mib) for window, mib in sorted(lowest.items()) if window * WINDOW >= warm_up]
    slope, error = growth(*np.array(warm).T)
    grows = slope > max(2 * error, 1)
    print(
        f"growth after {warm_up:.0f} s: {slope:+.1f} MiB a minute, standard error {error:.1f}: "
        f"{'it grows' if grows else 'no growth to be seen'}"
    )
    if errors or grows:
        sys.exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--warm-up", type=float, default=60, help="seconds before memory should grow no more [60]")
    parser.add_argument("--seconds", type=float, default=60, help="seconds after that, at least 40 [60]")
    parser.add_argument("--size", type=int, default=256, help="pixels [256]")
    parser.add_argument("--ngf", type=int, default=64, help="width of the network [64]")
    options = parser.parse_args()
    with demo_running(size=options.size, ngf=options.ngf) as demo:
        [server] = [p for p in psutil.Process().children() if "app.py" in " ".join(p.cmdline())]
        asyncio.run(measure(demo.address, demo.repo, options.clients, options.warm_up, options.seconds, server))
        for line in demo.log.read_text().splitlines():
            if "Traceback" in line or "Error" in line:
                print(line)


if __name__ == "__main__":
    main()
