"""The training loop: Accelerate carries it from one CPU to several nodes.

Randomness follows the clock. Before every batch the random state is set from the run's seed and the number of pictures
shown so far, and the order of pictures follows from the same two numbers. So a resumed run continues exactly where the
killed one would have gone, and two processes draw exactly what one process that accumulates two half batches draws.
"""

import dataclasses
import importlib.util
import math
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from fastgan import fast, sampling, watch
from fastgan.cards import SAMPLE_SEEDS, run_facts, write_run_facts
from fastgan.checkpoints import (
    Best,
    RunState,
    best_of_run,
    checkpoint_of,
    keep_best,
    read_state,
)
from fastgan.config import TrainConfig
from fastgan.errors import UserError
from fastgan.evaluation import Evaluator, save_features, save_sheet
from fastgan.feed import Feed
from fastgan.files import (
    BEST,
    CHECKPOINTS,
    LOG_FILE,
    RECONSTRUCTION_FILE,
    REPORT_FILE,
    SAMPLES,
    SAMPLES_FILE,
    quoted,
    write_file,
)
from fastgan.finetune import open_base
from fastgan.hub import save_model
from fastgan.launch import HANG_UP, Lasting, handling, train_command
from fastgan.learners import Learners
from fastgan.metrics import FEWEST
from fastgan.models import Generator
from fastgan.pixels import to_uint8
from fastgan.processes import Processes
from fastgan.report import write_report
from fastgan.run_folder import RunFolder, folder_of
from fastgan.schedule import Budget, Every

# In what PyTorch says on MPS, on a CPU, and where oneDNN, cuDNN or cuBLAS find no room for a layer.
NO_MEMORY = ("out of memory", "can't allocate memory", "could not create a primitive", "_STATUS_ALLOC_FAILED")
AGREE_EVERY = 8  # steps between the moments at which several processes decide together whether to stop


class Stop(IntEnum):
    """Why a run ends; of several reasons, among processes too, the highest counts."""

    GOING = 0
    FINISHED = 1
    INTERRUPTED = 2
    DIVERGED = 3


def train(config: TrainConfig, resume: bool = False) -> Path:
    """Train a generator and leave it, with all that belongs to it, in a run folder.

    Args:
        config: every setting.
        resume: continue from the newest checkpoint in the run folder.

    Returns:
        The run folder: config.json and model.safetensors (the averaged generator, ready for eval mode), samples.png,
        log.jsonl, report.html, train_config.json, samples/, checkpoints/ and best/.

    Raises:
        UserError: the settings, the pictures or the folder can't be used, or training diverged.
        KeyboardInterrupt: the run was interrupted; it is saved and the message says how to go on.
    """
    with fast.use(config.fast):
        trainer = None
        try:
            trainer = Trainer(config, resume)
            return trainer.run()
        except RuntimeError as error:
            if isinstance(error, torch.distributed.DistError) or "closed by peer" in str(error):
                raise UserError("another process has ended; see what it said") from error
            if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in NO_MEMORY):
                text = f"{folder_of(config)}: out of memory; more --accumulate, a smaller --size or --ngf need less"
                raise UserError(text) from error
            raise
        finally:
            if trainer:
                trainer.close()


class Trainer:
    """One run: what learns, what it learns from, when what is done, and the folder it ends in."""

    def __init__(self, config: TrainConfig, resume: bool = False):
        self.resumes = resume
        self.folder = folder_of(config)
        self.best: Best | None = None
        if config.report_to != "none":
            _require(config.report_to, f"--report-to {config.report_to}")
        self.processes = Processes(config, self.folder)
        self.accelerator, self.main, self.say = self.processes.accelerator, self.processes.main, self.processes.say
        # What was found here is kept, so that a resumed run computes as it did before.
        self.config = dataclasses.replace(config, mixed_precision=self.accelerator.mixed_precision)
        self.stop = self.wish = Stop.GOING  # what is decided; what this process would have
        self.files = RunFolder(self.folder, resume, self.main)
        self.feed = Feed(self.config, self.processes)
        self.trained = False  # whether a step was made since it started
        self.broken: UserError | None = None  # why there are no more pictures: those of a stream can't be read on
        self.pressed = False  # whether Ctrl-C was pressed
        self.saved = False  # whether the last save is done
        self.warned = False  # that D wins every time
        self.told: set[str] = set()  # what could not be written and need not be
        self.evaluated = -1  # pictures seen at the last evaluation
        self.levels = config.levels
        self.state = RunState(level=self.levels[0])
        self.sums: dict[str, Tensor] = {}
        self.micro_steps = 0
        try:
            self._set_up()
        except BaseException:
            self.files.withdraw()
            self.close()
            raise

    def _set_up(self) -> None:
        together = self.processes.together
        self.processes.check(self.config)
        checkpoints = together(lambda: self.files.open(self.config))
        self.publisher = together(self._open_hub)
        start = None if self.resumes else self.config.init_from
        self.base = together(lambda: open_base(start) if start else None)
        together(self._load_pictures)
        if self.config.fast:
            fast.prepare(self.accelerator.device)
        if self.resumes:
            with _with_way_back(checkpoints):
                self.state.level = read_state(checkpoints[-1])[0].level or self.levels[-1]
        self.learners = Learners(self.config, self.accelerator, self.base, self.say)
        if not self.grown:
            self.learners.rehearse(self.levels[-1])
        self.learners.build(self.state.level)
        self.evaluator = together(self._start_evaluator)
        if self.resumes:
            self._load(checkpoints)
        together(self._check_alike)
        together(lambda: self.feed.open(self.state.images))
        log = watch.read_log(self.folder / LOG_FILE) if self.resumes else []
        self.remarked = set(watch.remarks(log))
        self.evaluated = max((line["images"] for line in log if "kid" in line), default=-1)
        self._start_trackers()

    # ------------------------------------------------------------------ the algorithm

    def run(self) -> Path:
        """Train until the set length is reached, then save everything."""
        config, state = self.config, self.state
        self.files.begin()
        budget = self.budget = Budget(config, state.seconds)
        last = time.monotonic()
        log, samples, evaluation, checkpoint = (
            Every(text, state.images)
            for text in (config.log_every, config.sample_every, config.eval_every, config.checkpoint_every)
        )
        self.log_clock = (last, state.images)
        batches = self.feed.batches(state.images)
        with self._signals():
            with self._progress() as self.bar:
                self.due = budget.level_by_images(state.images)
                if state.images >= budget.images:
                    self.stop = self.wish = Stop.FINISHED
                    self.say(f"{self.folder}: is at its full length; a larger {budget.limit} makes it go on")
                elif self.main:
                    self._write_facts()
                while self.stop == Stop.GOING:
                    if self.due > state.level:
                        with self._pause():
                            self.grow(self.due)
                    if not self.step(batches):
                        self.stop = Stop.INTERRUPTED
                        break
                    now = time.monotonic()
                    state.seconds, last = state.seconds + now - last, now
                    self.bar.update(config.batch_size)

                    if log.due(state.images):
                        self.log()
                    with self._pause():
                        if self.main and samples.due(state.images):
                            with self._not_worth_a_run():
                                self.draw_samples(self.learners.settled())
                        if self.main and evaluation.due(state.images):
                            self.evaluate()
                        if self.main and checkpoint.due(state.images):
                            self.save()
                            if self.publisher and self.wish != Stop.DIVERGED:
                                self.publisher.offer(state.kimg)
                    self._decide()
            return self._finish()

    def step(self, batches: Iterator[Tensor]) -> bool:
        """Let both networks learn from a batch, part by part, and the average follow.

        Returns:
            Whether there was one. Not where a stream breaks, or where SIGTERM has ended its workers too, as of a whole
            job. What is left of a batch counts for nothing then.
        """
        before = self.state.images
        for _ in range(self.config.accumulate):
            try:
                real = next(batches)
            except (RuntimeError, UserError) as error:
                ended = self.wish == Stop.INTERRUPTED and "DataLoader worker" in str(error)
                if self.processes.world > 1 or not (ended or isinstance(error, UserError)):
                    raise
                self.broken = error if isinstance(error, UserError) else None
                self.state.images = before
                return False
            self.train_on(real)
        self.state.steps += 1
        self.trained = True
        self.learners.average(self.state.images)
        return True

    @contextmanager
    def _pause(self) -> Iterator[None]:
        """Leave the time that is spent here out of images per second."""
        started = time.monotonic()
        yield
        then, images = self.log_clock  # a line that was written meanwhile has set it
        self.log_clock = (then + time.monotonic() - max(started, then), images)

    def train_on(self, real: Tensor) -> None:
        """One part of a batch through both networks.

        Args:
            real: this process's part, [b, C, H, W] in [-1, 1].
        """
        self._seed_from_clock(len(real))
        values = self.learners.learn(real)
        self.state.images += len(real) * self.processes.world
        for name, value in values.items():  # added up on the device; read when a log line is due
            self.sums[name] = self.sums.get(name, 0) + value.detach()
        self.micro_steps += 1

    def _seed_from_clock(self, part: int) -> None:
        """Set the random state from the seed and the number of the first picture of this process's part."""
        position = self.state.images + part * self.accelerator.process_index
        # The constants of SplitMix64 (doi:10.1145/2660193.2660195), which leave no two near moments alike.
        torch.manual_seed((self.config.seed * 0x9E3779B97F4A7C15 + position * 0xBF58476D1CE4E5B9) % 2**63)

    # ------------------------------------------------------------------ setting up

    def _check_alike(self) -> None:
        """Raise a UserError where processes, on several machines, have other pictures or stand elsewhere."""
        pictures = int((self.feed.fingerprint or "0")[:15], 16)
        if not self.processes.alike(self.state.images, self.state.steps, pictures):
            raise UserError("the processes have different pictures or checkpoints; give all machines the same")

    def _open_hub(self) -> Any:
        """What pushes this run, its right to do so checked before any time is spent; None where nothing does."""
        config = self.config
        if not (self.main and config.push_to_hub):
            return None
        from fastgan.publish import Publisher

        self.feed.find()  # a slip of the pen makes no repository
        every_save = config.hub_strategy == "every_save"
        return Publisher(self.folder, config.push_to_hub, config.hub_public, every_save, config.hub_license, self.say)

    def _load_pictures(self) -> None:
        """Read the pictures, and say which were left out and whether they are others than before."""
        self.feed.load()
        if not self.feed.pictures:
            return
        self._say_skipped()
        before = run_facts(self.folder) if self.resumes else {}
        if before.get("fingerprint", self.feed.fingerprint) != self.feed.fingerprint:
            self.say(
                f"{self.config.dataset}: not the pictures that this run began with "
                f"({before['dataset'].get('pictures')} then, {self.feed.count} now); it goes on with the new ones"
            )

    def _write_facts(self) -> None:
        """Write down what the run learns from, and on what."""
        base = self.base.facts if self.base else None
        write_run_facts(self.folder, self.feed.source, self.processes.hardware, base, self.feed.fingerprint)

    def _say_skipped(self) -> None:
        if news := self.files.write_skipped(self.feed.skipped):
            self.say(news)

    @property
    def grown(self) -> bool:
        """Whether it trains at full size."""
        return self.state.level == self.levels[-1]

    @property
    def command(self) -> str:
        """What goes on with this run."""
        return f"{train_command()} --resume {quoted(self.folder)}"

    def grow(self, level: int) -> None:
        """Go on with pictures of a larger size."""
        self.learners.grow(level)
        self.state.level, self.trained, self.evaluated = level, True, -1
        config = self.learners.ema.model.config
        self.say(f"{self.state.kimg:.1f} kimg: pictures grow to {config.width}x{config.height}")

    def _start_evaluator(self) -> Evaluator | None:
        """What measures the generator now and then; None where that is off or there is too little to compare with."""
        config = self.config
        if not self.main or not config.eval_images:
            return None
        if self.feed.count < FEWEST:
            self.say(f"KID is not measured: that needs at least {FEWEST} pictures, and not --streaming")
            return None
        if config.eval_network in config.teachers:
            self.say(f"--eval-network {config.eval_network} also teaches the model: its figures will flatter it")
        network, pictures, device = config.eval_network, self.feed.pictures, self.accelerator.device
        return Evaluator(network, pictures, config.eval_images, config.teachers, config.cache_dir, device)

    def _load(self, checkpoints: Sequence[Path]) -> None:
        checkpoint = checkpoints[-1]
        with _with_way_back(checkpoints):
            self.state = self.learners.load(checkpoint)
        self.best = best_of_run(self.folder)  # may be of later than the checkpoint
        if self.main:
            self.files.rewind_log(self.state.images)
        self.say(f"Continuing {self.folder} from {checkpoint.name} ({self.state.kimg:.2f} kimg)")

    def _start_trackers(self) -> None:
        if self.config.report_to != "none":
            settings = {k: "" if v is None else v for k, v in self.config.to_dict().items()}
            self.accelerator.init_trackers("fastgan", config=settings)

    # ------------------------------------------------------------------ what is due now and then

    def log(self) -> None:
        """Write the means since the last line, and notice what has gone wrong."""
        if not self.micro_steps:
            return
        values = {name: float(total) / self.micro_steps for name, total in self.sums.items()}
        self.sums, self.micro_steps = {}, 0
        if not all(math.isfinite(value) for value in values.values()) or not self.learners.are_finite():
            self.wish = Stop.DIVERGED
        if not self.main:
            return
        then, images = self.log_clock
        self.log_clock = (time.monotonic(), self.state.images)
        rate = (self.state.images - images) / max(1e-9, time.monotonic() - then)
        self.bar.total = self.budget.images_at(rate, self.state.images)
        self.bar.set_postfix(d=f"{values['loss/d']:.2f}", g=f"{values['loss/g']:.2f}")
        self._record({**values, "images_per_second": rate})
        if values["loss/d"] < 0.02 and not self.warned:
            self.warned = True
            self.say(
                "The discriminator now wins every time (its loss is near 0), so the generator learns little: "
                "more pictures, --augment color,translation,cutout or a lower --learning-rate help"
            )

    def _record(self, values: dict[str, Any]) -> None:
        state = self.state
        line = {"images": state.images, "step": state.steps, "seconds": round(state.seconds, 2), **values}
        with self._not_worth_a_run():
            self.files.record(line)
        numbers = {name: value for name, value in values.items() if type(value) in (int, float)}
        self.accelerator.log(numbers, step=self.state.images)

    @contextmanager
    def _not_worth_a_run(self) -> Iterator[None]:
        """Report a file that only shows the run and can't be written, once, and go on."""
        try:
            yield
        except UserError as error:
            if str(error) not in self.told:
                self.told.add(str(error))
                self.say(f"{error}. The run goes on")

    def draw_samples(self, generator: Generator) -> None:
        """Write the grid of seeds 0 to 15 and what D's decoders make of real pictures."""
        sheet = sampling.grid(torch.cat(list(sampling.sample(generator, SAMPLE_SEEDS))))
        drawn = self.folder / SAMPLES / f"{self.state.images:010d}.png"
        write_file(drawn, lambda temporary: sheet.save(temporary))
        write_file(self.folder / SAMPLES_FILE, lambda temporary: shutil.copyfile(drawn, temporary))
        if rows := self.learners.objective.panel():
            size = rows[1].shape[2:]
            rows = [nn.functional.interpolate(row.detach().float(), size=size, mode="area") for row in rows]
            panel = sampling.grid(to_uint8(torch.cat(rows)).cpu(), columns=len(rows[0]))
            write_file(self.folder / RECONSTRUCTION_FILE, lambda temporary: panel.save(temporary))
        for tracker in self.accelerator.trackers:
            if hasattr(tracker, "log_images"):  # TensorBoard has to be told where the channels are
                layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({"samples": np.asarray(sheet.convert("RGB"))[None]}, self.state.images, **layout)
            elif tracker.name == "trackio":
                from trackio import Image as TrackedImage

                tracker.log({"samples": TrackedImage(sheet.convert("RGB"))}, self.state.images)

    def save(self) -> None:
        """Write the generator as it stands, its pictures and a checkpoint."""
        self.log()
        if self.wish == Stop.DIVERGED:
            return
        self._say_skipped()
        generator = self.learners.settled()
        self._save_checkpoint(generator)
        with self._not_worth_a_run():
            self.draw_samples(generator)
            write_report(self.folder)

    def _save_checkpoint(self, generator: Generator) -> None:
        """Write the generator and a checkpoint that belongs to it; the newest stay, and the best model's."""
        save_model(generator, self.folder)
        best = self.best and self.best.images
        self.learners.save(self.folder / CHECKPOINTS, self.state, self.config.keep_checkpoints, best)

    def evaluate(self) -> None:
        """Measure the generator, keep it in best/ if none was better, and say what has begun to go wrong."""
        self.log()
        if self.wish == Stop.DIVERGED or self.evaluator is None:
            return
        started, self.evaluated = time.monotonic(), self.state.images
        generator = self.learners.settled()
        try:
            figures, alike = self.evaluator(generator)
        except UserError as error:  # a full disk, perhaps; the run itself is well
            self.say(f"Not measured at {self.state.kimg:.1f} kimg: {error}")
            return
        seconds = round(time.monotonic() - started, 2)
        copies, kid = watch.rank(figures.to_dict())
        compared_with = self.feed.fingerprint
        old = self.best if self.best and self.best.pictures in ("", compared_with) else None
        if self.grown and (old is None or (copies, kid) < (old.copies, old.kid)):
            self.best = Best(kid, self.state.images, copies, compared_with)
            keep_best(self.folder, generator, self.best)
            if not checkpoint_of(self.folder / CHECKPOINTS, self.state.images).exists():
                self._save_checkpoint(generator)  # so that a run can go on from its best, and others learn on from it
        measured, pictures = self.evaluator, self.feed.pictures
        with self._not_worth_a_run():
            save_sheet(self.folder, generator, pictures.images, alike)
            real, rows, count = measured.real, measured.rows, len(pictures.images)
            save_features(self.folder, real, measured.network, pictures.fingerprint, rows, count)
        where = {"level": self.state.level, "pictures": compared_with}
        self._record({**figures.to_dict(), **where, "evaluation_seconds": seconds})
        self._remark()

    def _remark(self) -> None:
        """Say what is wrong with the run, each thing once as long as it lasts."""
        found = watch.remarks(watch.read_log(self.folder / LOG_FILE), kept=self.grown)
        for kind, text in found.items():
            if kind not in self.remarked:
                self.say(text)
        self.remarked = set(found)

    def _by_heart(self) -> bool:
        """Whether it has come nearer to its pictures, as copies do, since its best model was kept."""
        measured = watch.evaluations(watch.read_log(self.folder / LOG_FILE)) if self.best else []
        return bool(measured) and watch.copying(measured[-1]) > self.best.copies

    # ------------------------------------------------------------------ stopping

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM, a closed terminal and output that nobody reads stop the run after the step at hand; Ctrl-C
        again at once."""

        def wish_to_stop():
            self.wish = max(self.wish, Stop.INTERRUPTED)

        def interrupt(number, frame):
            if self.saved:
                raise KeyboardInterrupt(f"Stopped and saved at {self.state.kimg:.2f} kimg. Go on with: {self.command}")
            if self.pressed and number == signal.SIGINT:
                raise KeyboardInterrupt("Stopped at once; the last checkpoint is whole.")
            self.pressed = True
            wish_to_stop()
            self.say("Stopping after this step and saving; press Ctrl-C again to stop without saving")

        if threading.current_thread() is not threading.main_thread():  # where nobody can set handlers
            yield
            return
        # nohup has a closed terminal ignored, and so it stays.
        closed = [number for number in HANG_UP if signal.getsignal(number) != signal.SIG_IGN]
        output, errors = (Lasting(stream, wish_to_stop) for stream in (sys.stdout, sys.stderr))
        handlers = dict.fromkeys((signal.SIGINT, signal.SIGTERM, *closed), interrupt)
        with redirect_stdout(output), redirect_stderr(errors), handling(handlers):
            yield

    def _decide(self) -> None:
        """Set whether to stop and which size is due, the same in every process."""
        images, budget = self.state.images, self.budget
        if budget.used_up(images):
            self.wish = max(self.wish, Stop.FINISHED)
        if self.processes.world == 1 or images >= budget.images or self.state.steps % AGREE_EVERY == 0:
            stop, self.due = self.processes.largest(self.wish, budget.level_by_time())
            self.stop = Stop(stop)
        self.due = max(self.due, budget.level_by_images(images))

    def _finish(self) -> Path:
        """Save what there is and say where it is."""
        self.log()  # which may find that the loss is no longer a number
        [stop] = self.processes.largest(max(self.stop, self.wish))
        self.stop = Stop(stop)
        if self.stop == Stop.FINISHED and not self.grown:  # too short a run to have come that far
            self.grow(self.levels[-1])
        if self.main and self.stop != Stop.DIVERGED:
            if self.trained:
                self.save()
            self.saved = self.wish != Stop.DIVERGED
            self.stop = max(self.stop, self.wish)  # Ctrl-C may have come while it was saved
            if self.stop == Stop.FINISHED and self.evaluator and self.evaluated != self.state.images:
                self.evaluate()
                with self._not_worth_a_run():
                    write_report(self.folder)
        self.processes.wait()
        not_there = f"\n{self.publisher.where_it_is(self.state.kimg)}" if self.publisher else ""
        if self.stop == Stop.DIVERGED:
            raise UserError(
                f"{self.folder}: the loss is no longer a number after {self.state.kimg:.2f} kimg. Its checkpoints are "
                f"from before; start anew with a lower --learning-rate, or with --mixed-precision no{not_there}"
            )
        if self.stop == Stop.INTERRUPTED and not self.state.images:
            nothing = f"{self.folder} holds nothing to go on from"
            raise self.broken or KeyboardInterrupt(f"Stopped before the first step; {nothing}")
        if self.stop == Stop.INTERRUPTED:
            size = "" if self.grown else f", still at {self.learners.ema.model.config.width} pixels"
            at, way_back = f"{self.state.kimg:.2f} kimg{size}", f"{self.command}{not_there}"
            if self.broken:
                raise UserError(f"{self.broken}. Saved at {at}; go on with: {way_back}") from self.broken
            raise KeyboardInterrupt(f"Stopped and saved at {at}. Go on with: {way_back}")
        by_heart = self._by_heart()
        model = self.folder / BEST if by_heart else self.folder
        self.say(
            f"{self.state.kimg:.2f} kimg in {self.state.seconds / 60:.1f} min. See {self.folder / REPORT_FILE}\n"
            f"More pictures: fastgan sample {quoted(model)} --seeds 0-63 --grid grid.png"
        )
        if self.best:
            since = ", from before it began to learn its pictures by heart" if by_heart else ""
            at = f"{self.best.images / 1000:.2f} kimg{since}"
            self.say(f"Best KID {self.best.kid:.4f}, at {at}: {self.folder / BEST}")
        if self.publisher:  # last, so that no other process waits for the upload
            self.publisher.finish(self.state.kimg, by_heart)
        return self.folder

    def close(self) -> None:
        """Let go of the pictures, the other processes and the folder."""
        self.feed.close()
        self.processes.close()
        self.files.leave()

    def _progress(self) -> tqdm:
        """A bar over pictures with rate and time left; a line every half minute where there is no terminal."""
        return tqdm(
            # Where minutes count, the first log line knows how far it will get.
            total=self.budget.images if self.config.max_minutes is None else None,
            initial=self.state.images,
            unit=" pictures",
            desc=self.folder.name,
            disable=not self.main,
            mininterval=0.5 if sys.stderr.isatty() else 30,
            dynamic_ncols=True,
        )


@contextmanager
def _with_way_back(checkpoints: Sequence[Path]) -> Iterator[None]:
    """Says of a checkpoint that can't be read how to go on without it."""
    try:
        yield
    except UserError as error:
        if len(checkpoints) < 2:
            raise
        before, last = checkpoints[-2:]
        raise UserError(f"{error}. To go on from {before.name} instead, delete {last}") from None


def _require(package: str, what: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{what}: needs the package {package}: pip install {package}")
