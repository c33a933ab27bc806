"""How fast pictures are drawn, and how long it takes from a model folder to the first of them.

    python benchmarks/sampling.py --size 256
    python benchmarks/sampling.py --model user/fastgan-anime --device cuda --batch-size 32 --precision fp16
    python benchmarks/sampling.py --size 256 --compare "--precision fp32" "--precision bf16"
    python benchmarks/sampling.py --size 256 --compare "" " --onnx"      # PyTorch and onnxruntime
    python benchmarks/sampling.py --size 256 --compare " --no-fast" "--precision bf16"      # as published, and at best

Weights are random unless a model is given; their speed is the same. Operations are counted where each layer is
computed by itself; the form that draws on a CPU needs up to a sixth fewer.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import REPEATS, Clock, Work, main


def prepare(options: argparse.Namespace, unknown: list[str]) -> Work:
    """A loaded generator and the seeds it draws."""
    from fastgan import fast
    from fastgan.commands import load
    from fastgan.config import ModelConfig, parse_size
    from fastgan.folding import folded
    from fastgan.hub import save_model
    from fastgan.models import Generator
    from fastgan.pixels import to_uint8
    from fastgan.sampling import at_a_time, sample, seeded_inputs

    if unknown:
        raise SystemExit(f"unknown flags: {' '.join(unknown)}")
    if options.onnx and (options.device, options.precision, options.fast) != ("cpu", "fp32", True):
        raise SystemExit("--onnx draws on the CPU in float32: leave out --device, --precision and --no-fast")
    with tempfile.TemporaryDirectory() as folder:
        if not options.model:
            height, width = parse_size(options.size)
            torch.manual_seed(0)
            config = ModelConfig(height, width, options.channels, options.z_dim, options.ngf)
            save_model(Generator(config), Path(folder))
        start = time.perf_counter()
        generator = load(argparse.Namespace(**vars(options) | {"model": options.model or folder, "revision": None}))
        next(sample(generator, [0]))
        first = time.perf_counter() - start
    weight = next(generator.parameters())
    seeds = range(options.images or options.batch_size)

    def counted() -> None:
        z, noise = seeded_inputs(generator, seeds)
        with torch.no_grad(), fast.use(options.fast):
            generator(z.to(weight), noise=[maps.to(weight) for maps in noise])

    if options.onnx:
        return onnx_work(generator, seeds, counted, first)

    def run() -> None:
        with fast.use(options.fast):
            for _ in sample(generator, seeds, batch_size=options.batch_size):
                pass

    def parts() -> dict[str, float]:
        clock = Clock(weight.device)
        step = at_a_time(weight, options.batch_size)
        with torch.inference_mode(), fast.use(options.fast):
            network = folded(generator)
            for start in [*range(0, len(seeds), step)] * REPEATS:
                with clock.part("latents and noise"):
                    z, noise = seeded_inputs(generator, seeds[start : start + step])
                with clock.part("network"):
                    images = network(z.to(weight), noise=[maps.to(weight) for maps in noise]).full
                with clock.part("to bytes"):
                    to_uint8(images).cpu()
        return {name: seconds / REPEATS for name, seconds in clock.seconds.items()}

    facts = {"seconds to import fastgan, without torch": imported()}
    facts["seconds from the folder to the first picture"] = first
    return Work(described(generator, seeds), run, len(seeds), weight.device, options.precision, parts, counted, facts)


def onnx_work(generator, seeds: range, counted: Callable[[], None], first: float) -> Work:
    """The same pictures, drawn by onnxruntime with as many threads as PyTorch would take.

    Args:
        generator: is exported at float32.
        seeds: drawn at once.
        counted: does the arithmetic of one drawing in PyTorch.
        first: seconds that PyTorch took from the folder to the first picture.
    """
    import onnxruntime

    from fastgan.export import export_onnx, feed_of
    from fastgan.pixels import to_uint8
    from fastgan.sampling import seeded_inputs

    gates = len(generator.config.gates)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        [file] = export_onnx(generator, Path(folder), [torch.float32])
        session = onnxruntime.InferenceSession(str(file.path), settings, providers=["CPUExecutionProvider"])

    def inputs() -> dict:
        z, noise = seeded_inputs(generator, seeds)
        style_z, strength = (z, torch.zeros(gates)) if gates else (None, None)
        return feed_of(z, style_z, strength, noise)

    def run() -> None:
        to_uint8(torch.from_numpy(session.run(None, inputs())[0]))

    def parts() -> dict[str, float]:
        clock = Clock(torch.device("cpu"))
        for _ in range(REPEATS):
            with clock.part("latents and noise"):
                feed = inputs()
            with clock.part("network"):
                images = session.run(None, feed)[0]
            with clock.part("to bytes"):
                to_uint8(torch.from_numpy(images))
        return {name: seconds / REPEATS for name, seconds in clock.seconds.items()}

    facts = {"seconds from the folder to the first picture, PyTorch": first, "megabytes of the file": file.size / 1e6}
    what = described(generator, seeds) + ", onnxruntime"
    return Work(what, run, len(seeds), torch.device("cpu"), "fp32", parts, counted, facts)


def imported() -> float:
    """Seconds that a fresh Python takes to import the package, which leaves torch for when it is needed."""
    code = "import time; start = time.perf_counter(); import fastgan; print(time.perf_counter() - start)"
    return min(float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3))


def described(generator, seeds: range) -> str:
    """What is drawn, in words."""
    config = generator.config
    return f"sampling, {config.width}x{config.height}, ngf {config.ngf}, {len(seeds)} at once"


def flags() -> argparse.ArgumentParser:
    """What can be set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Hub id or run folder, instead of random weights")
    parser.add_argument("--size", default="256", help="pixels, or WIDTHxHEIGHT [256]")
    parser.add_argument("--channels", type=int, default=3, help="1, 3 or 4 [3]")
    parser.add_argument("--ngf", type=int, default=64, help="width [64]")
    parser.add_argument("--z-dim", type=int, default=256, help="length of the latent [256]")
    parser.add_argument("--batch-size", type=int, default=8, help="pictures drawn at a time in half precision [8]")
    parser.add_argument("--images", type=int, help="pictures asked for at once [as many]")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps [cpu]")
    plain = "with normalisation and doubling as steps of their own, as published"
    parser.add_argument("--no-fast", dest="fast", action="store_false", help=plain)
    parser.add_argument("--onnx", action="store_true", help="export it, draw with onnxruntime in float32")
    precisions = ("fp32", "bf16", "fp16")
    parser.add_argument("--precision", default="fp32", choices=precisions, help="what it computes in [fp32]")
    return parser


if __name__ == "__main__":
    main(prepare, flags())
