"""What the benchmarks share: rounds of one setting, or of two in turn, and this machine's peak to hold them against.

Every setting runs in a process of its own, so that its peak memory is its own, and it is timed in short rounds. Of two
settings the rounds alternate (A B, B A, ...): what else the machine does then meets both alike, and the ratio of
neighbouring rounds says more than either rate.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

REPEATS = 3  # runs over which the times of parts are averaged


def _flop_of_fused(x_shape: Sequence[int], w_shape: Sequence[int], *_, out_shape: Sequence[int], **__) -> int:
    """What a convolution computes, whatever is done to its result on the way."""
    return conv_flop_count(x_shape, w_shape, out_shape)


# The convolution that PyTorch's counter does not know, where there is one.
FUSED = {getattr(torch.ops.mkldnn, "_convolution_pointwise", None): _flop_of_fused}
CONVOLUTIONS = {torch.ops.aten.convolution, torch.ops.aten.convolution_backward, *FUSED}


@dataclass
class Work:
    """Something to time. Everything is prepared; `run` does it once."""

    what: str  # settings, in words
    run: Callable[[], None]
    images: int  # per run
    device: torch.device
    precision: str  # "no" or fp32, bf16, fp16
    parts: Callable[[], dict[str, float]]  # seconds that parts of one run take
    counted: Callable[[], None]  # what a run computes, outside of inference mode, where operations can't be counted
    facts: dict[str, float] = field(default_factory=dict)  # further figures, by name and unit


def main(prepare: Callable[[argparse.Namespace, list[str]], Work], parser: argparse.ArgumentParser) -> None:
    """Time what `prepare` makes of the flags, and print what was found.

    Args:
        prepare: gets the parsed flags, and those the parser does not know.
        parser: with the flags of this benchmark; the shared ones are added here.
    """
    group = parser.add_argument_group("how it is measured")
    group.add_argument("--rounds", type=int, default=5, help="timed rounds [5]")
    group.add_argument("--seconds", type=float, default=3.0, help="least length of a round [3.0]")
    group.add_argument("--tree", default=os.getcwd(), help="checkout whose package is timed [this one]")
    group.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two sets of flags in turn, each in quotes")
    group.add_argument("--json", action="store_true", help="print everything as JSON")
    group.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if options.worker:
        from fastgan.cli import run

        sys.exit(run(lambda: _work(prepare(options, rest), options.seconds)))

    shared = [word for word in sys.argv[1:] if word != "--json"]
    if options.compare:
        at = shared.index("--compare")
        shared = shared[:at] + shared[at + 3 :]
    settings = [[*shared, *text.split()] for text in options.compare or [""]]
    workers = [_Worker(words) for words in settings]
    try:
        reports = [worker.ask() for worker in workers]
        rates: list[list[float]] = [[] for _ in workers]
        for number in range(options.rounds):
            turn = list(enumerate(workers))
            for i, worker in turn if number % 2 == 0 else turn[::-1]:
                rates[i].append(worker.ask("round")["images_per_second"])
        reports = [report | worker.ask("end") for report, worker in zip(reports, workers, strict=True)]
    finally:
        for worker in workers:
            worker.stop()
    for report, found in zip(reports, rates, strict=True):
        report["rates"], report["images_per_second"] = found, statistics.median(found)
        rate = report["flop_per_image"] * report["images_per_second"]
        report["share_of_peak"] = {name: rate / peak for name, peak in report["peak"].items()}
    ratios = [b / a for a, b in zip(*rates, strict=True)] if len(rates) == 2 else []
    if options.json:
        print(json.dumps({"reports": reports, "ratios": ratios}, indent=2))
        return
    for name, report in zip("AB", reports, strict=False):
        _print(report, f"{name}: " if ratios else "")
    if ratios:
        print(f"B / A: {statistics.median(ratios):.3f} (median of {len(ratios)} pairs of rounds, {_spread(ratios)})")


def _print(report: dict, name: str) -> None:
    rates, memory = report["rates"], report["peak_memory"] / 2**20
    print(f"{name}{report['what']}")
    print(f"  {report['images_per_second']:.2f} images/s (median of {len(rates)} rounds, {_spread(rates)})")
    print(f"  {report['device']}, precision {report['precision']}, peak memory {memory:,.0f} MB")
    shares = ", ".join(
        f"{report['share_of_peak'][dtype]:.0%} of the {peak / 1e9:,.0f} GFLOP/s of a {dtype} matrix product"
        for dtype, peak in report["peak"].items()
    )
    print(f"  {report['flop_per_image'] / 1e9:.2f} GFLOP per image: {shares}")
    if inside := report["convolutions"]:
        share = inside["rate"] / report["peak"]["fp32" if report["precision"] in ("no", "fp32") else "bf16"]
        print(f"  in convolutions {inside['share_of_time']:.0%} of the time, at {share:.0%} of such a product's rate")
    for fact, value in report["facts"].items():
        print(f"  {fact}: {value:.3g}")
    total = sum(report["parts"].values())
    for part, seconds in report["parts"].items():
        print(f"    {part:<28}{1000 * seconds:9.1f} ms {seconds / total:6.1%}")


def _spread(values: Sequence[float]) -> str:
    return f"{min(values):.3g} to {max(values):.3g}"


class _Worker:
    """A setting in a process of its own that answers in lines of JSON."""

    def __init__(self, words: list[str]):
        tree = words[words.index("--tree") + 1] if "--tree" in words else os.getcwd()
        self.process = subprocess.Popen(
            [sys.executable, sys.argv[0], "--worker", *words],
            env={**os.environ, "PYTHONPATH": os.path.abspath(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, question: str | None = None) -> dict:
        if question:
            print(question, file=self.process.stdin, flush=True)
        if not (line := self.process.stdout.readline()):
            raise SystemExit(self.process.wait() or 1)  # it has said why
        return json.loads(line)

    def stop(self) -> None:
        """No more questions: the worker ends by itself and tidies up."""
        try:
            self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()


def _work(work: Work, least_seconds: float) -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # what else is printed does not belong among the answers

    def answer(**values) -> None:
        print(json.dumps(values), file=answers, flush=True)

    work.run()
    once = _seconds(work, 1)
    count = max(1, round(least_seconds / once))
    answer(what=work.what, device=_name(work.device), precision=work.precision, facts=work.facts)
    for question in sys.stdin:
        if question.strip() == "round":
            answer(images_per_second=work.images / _seconds(work, count))
        else:
            memory = peak_memory(work.device)  # before what follows needs its own
            with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
                work.counted()
            operations = counter.get_flop_counts()["Global"]
            flop_in_convolutions = sum(operations[kind] for kind in CONVOLUTIONS & operations.keys())
            dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
            answer(
                peak_memory=memory,
                flop_per_image=counter.get_total_flops() / work.images,
                convolutions=_in_convolutions(work, flop_in_convolutions),
                parts=work.parts(),
                peak={name: matmul_peak(work.device, dtype) for name, dtype in dtypes.items()},
            )


def _in_convolutions(work: Work, flop: float) -> dict[str, float]:
    """FLOP/s within convolutions, and their share of the time; nothing where what is counted is not what is timed."""
    if work.counted is not work.run:
        return {}
    with _Convolutions(work.device) as convolutions:
        start = time.perf_counter()
        for _ in range(REPEATS):
            work.run()
        synchronize(work.device)
        seconds = time.perf_counter() - start
    return {"rate": flop * REPEATS / convolutions.seconds, "share_of_time": convolutions.seconds / seconds}


class _Convolutions(TorchDispatchMode):
    """Adds up the seconds that convolutions take, on the way back too."""

    def __init__(self, device: torch.device):
        super().__init__()
        self.device, self.seconds = device, 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket not in CONVOLUTIONS:
            return func(*args, **(kwargs or {}))
        synchronize(self.device)
        start = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        synchronize(self.device)
        self.seconds += time.perf_counter() - start
        return result


def _seconds(work: Work, count: int) -> float:
    """Mean seconds of a run."""
    return Timer("run()", globals={"run": work.run}, num_threads=torch.get_num_threads()).timeit(count).mean


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest square matrix product found on a device: what convolutions can hope for."""
    best = 0.0
    for side in (1024, 2048) if device.type == "cpu" else (4096, 8192):
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        timer = Timer("a @ b", globals={"a": a, "b": b}, num_threads=torch.get_num_threads())
        best = max(best, 2 * side**3 / timer.blocked_autorange(min_run_time=0.5).median)
    return best


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that tensors took on a GPU, or that this process took of a CPU's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was told."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


class Clock:
    """Adds up the seconds spent in named parts; parts within parts count for themselves."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, {}

    @contextmanager
    def part(self, name: str):
        synchronize(self.device)
        start = time.perf_counter()
        try:
            yield
        finally:
            synchronize(self.device)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU with {torch.get_num_threads()} threads" if device.type == "cpu" else device.type
