"""How fast a training step is, and where its time goes.

    python benchmarks/train_step.py --size 256 --batch-size 8
    python benchmarks/train_step.py --compare "--mixed-precision no" "--mixed-precision bf16"
    python benchmarks/train_step.py --compare "--tree ../main" "--tree ."
    python benchmarks/train_step.py --dataset photos/ --compare "" " --streaming"     # does the loader keep up?

Takes every flag of train.py; the sample set and its defaults when none are given. The pictures are prepared before and
loading is part of the step, as in a run; sampling, logging and saving are not.
"""

import argparse
import atexit
import shutil
import tempfile
from collections.abc import Iterator
from functools import wraps
from pathlib import Path

from common import REPEATS, Clock, Work, main
from torch import Tensor, nn

PICTURES = Path(__file__).parents[1] / "examples" / "emoji_faces"


def trainer_for(flags: list[str]):
    """A trainer of the sample pictures, unless flags of train.py say otherwise, that stands before its first step."""
    from fastgan.cli import resolve
    from fastgan.trainer import Trainer

    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    full_size = ["--grow-from", "0"]  # where a step costs most
    defaults = ["--dataset", str(PICTURES), "--eval-images", "0", "--output-dir", f"{folder}/run", *full_size]
    config, _, _ = resolve([*defaults, *flags])
    return Trainer(config)


def prepare(options: argparse.Namespace, flags: list[str]) -> Work:
    """A training step."""
    from fastgan import fast

    trainer = trainer_for(flags)
    config = trainer.config
    batches = trainer.feed.batches(0)

    def run(source: Iterator[Tensor] = batches) -> None:
        with fast.use(config.fast):
            trainer.step(source)

    def parts() -> dict[str, float]:
        clock = Clock(trainer.accelerator.device)
        watch(trainer, clock)
        with clock.part("whole"):
            for _ in range(REPEATS):
                run(timed(batches, clock))
        whole = clock.seconds.pop("whole")
        clock.seconds["rest"] = whole - sum(clock.seconds.values())
        return {name: seconds / REPEATS for name, seconds in clock.seconds.items()}

    what = f"training step, recipe {config.recipe}, size {config.size}, batch {config.batch_size}, "
    what += f"ngf {config.ngf}" + (f" ({' '.join(flags)})" if flags else "")
    accelerator = trainer.accelerator
    return Work(what, run, config.batch_size, accelerator.device, accelerator.mixed_precision, parts, run)


def timed(batches: Iterator[Tensor], clock: Clock) -> Iterator[Tensor]:
    """The same batches; the clock gets the seconds for which the step waits for them."""
    while True:
        with clock.part("next batch"):
            batch = next(batches)
        yield batch


def watch(trainer, clock: Clock) -> None:
    """Let a clock see the parts of every training step; repeated ones are numbered in the order they come.

    Args:
        trainer: whose methods are wrapped.
        clock: gets the seconds.
    """
    calls: dict[str, int] = {}

    def watched(owner, method: str, name: str) -> None:
        function = getattr(owner, method)

        @wraps(function)
        def call(*args, **kwargs):
            calls[name] = calls.get(name, 0) + 1
            with clock.part(f"{name} {calls[name]}"):
                return function(*args, **kwargs)

        setattr(owner, method, call)

    learners, players = trainer.learners, trainer.learners.players
    watched(players.generator, "forward", "generator forward")
    watched(players.discriminator, "forward", "discriminator forward")
    watched(trainer.accelerator, "backward", "backward")
    watched(players.d_optimizer, "step", "discriminator Adam")
    watched(players.g_optimizer, "step", "generator Adam")
    watched(learners.ema, "update", "moving average")
    for name, helper in vars(learners.objective).items():
        if isinstance(helper, nn.Module):  # a frozen network that helps to judge
            watched(helper, "forward", name)
    train_on = trainer.train_on

    def anew(batch) -> None:
        calls.clear()
        train_on(batch)

    trainer.train_on = anew


if __name__ == "__main__":
    main(prepare, argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
