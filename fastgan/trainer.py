"""The training loop: Accelerate carries it from one CPU to several nodes.

Randomness follows the clock. Before every batch the random state is set from the run's seed and the number of pictures
shown so far, and the order of pictures follows from the same two numbers. So a resumed run continues exactly where the
killed one would have gone, and two processes draw exactly what one process that accumulates two half batches draws.
"""

import copy
import dataclasses
import importlib.util
import math
import os
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState, is_initialized
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    DynamoBackend,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    broadcast,
    broadcast_object_list,
    parse_flag_from_env,
)
from torch import Tensor, nn
from tqdm.auto import tqdm

from fastgan import data, fast, sampling, watch
from fastgan.cards import run_facts, write_run_facts
from fastgan.checkpoints import (
    Best,
    RunState,
    best_of_run,
    checkpoint_of,
    keep_best,
    load_checkpoint,
    read_state,
    save_checkpoint,
)
from fastgan.config import TrainConfig
from fastgan.ema import EMA
from fastgan.errors import UserError
from fastgan.evaluation import Evaluator, save_features, save_sheet
from fastgan.files import (
    BEST,
    CHECKPOINTS,
    LOG_FILE,
    REPORT_FILE,
    SAMPLES,
    SAMPLES_FILE,
    quoted,
    write_file,
)
from fastgan.finetune import double_to, fill_from, freeze_blocks, open_base
from fastgan.growing import shrink
from fastgan.hub import save_model
from fastgan.launch import HANG_UP, handling, train_command
from fastgan.models import Generator
from fastgan.objectives import Players, objective_of
from fastgan.pixels import to_float, to_uint8
from fastgan.report import write_report
from fastgan.run_folder import RunFolder, folder_of
from fastgan.schedule import Budget, Every
from fastgan.streaming import StreamedBatches, stream_batches

GRID_SEEDS = range(16)
# In what PyTorch says on MPS, on a CPU, and on a CPU where oneDNN finds no room for a layer.
NO_MEMORY = ("out of memory", "can't allocate memory", "could not create a primitive")
PATIENCE = timedelta(hours=2)  # of processes that wait for one which prepares pictures or measures
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
    """One run: networks, optimizers, pictures and the folder they end in."""

    def __init__(self, config: TrainConfig, resume: bool = False):
        self.config, self.resumes = config, resume
        self.folder = folder_of(config)
        self.best: Best | None = None
        self.shares_state = is_initialized()  # with a caller who uses Accelerate for something else, as in a notebook
        self.accelerator = self._start_accelerator()
        self.main = self.accelerator.is_main_process
        self.world = self.accelerator.num_processes
        self.stop = self.wish = Stop.GOING  # what is decided; what this process would have
        self.files = RunFolder(self.folder, resume, self.main)
        self.agreed = False  # whether all processes end here, rather than this one by itself
        self.trained = False  # whether a step was made since it started
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
        self._check_processes()
        checkpoints = self._together(lambda: self.files.open(self.config))
        self.publisher = self._together(self._open_hub)
        start = None if self.resumes else self.config.init_from
        self.base = self._together(lambda: open_base(start) if start else None)
        self.pictures = self._together(lambda: None if self.config.streaming else self._load_pictures())
        if self.config.fast:
            fast.prepare(self.accelerator.device)
        if self.resumes:
            with _with_way_back(checkpoints):
                self.state.level = read_state(checkpoints[-1])[0].level or self.levels[-1]
        if not self.grown:
            self._rehearse()
        self._build_networks()
        self.evaluator = self._together(self._start_evaluator)
        if self.resumes:
            self._load(checkpoints)
        self._together(self._check_alike)
        self.stream = self._together(self._open_stream) if self.config.streaming else None
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
        batches = self._batches()
        with self._signals():
            with self._progress() as self.bar:
                self.due = budget.level_by_images(state.images)
                if state.images >= budget.images:
                    self.stop = self.wish = Stop.FINISHED
                    self.say(f"{self.folder}: is at its full length; a larger {budget.limit} makes it go on")
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
                                self.draw_samples(self._settled())
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
            Whether there was one. Not where SIGTERM has ended the workers of a stream too, as of a whole job.
        """
        for part in range(self.config.accumulate):
            try:
                real = next(batches)
            except RuntimeError as error:
                alone = part == 0 and self.world == 1
                if not (alone and self.wish == Stop.INTERRUPTED and "DataLoader worker" in str(error)):
                    raise
                return False
            self.train_on(real)
        self.state.steps += 1
        self.trained = True
        generator = self.accelerator.unwrap_model(self.players.generator)
        self.ema.update(generator, self.config.batch_size, self.state.images)
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
        real = shrink(real, self.levels[-1] // self.state.level)
        with self.accelerator.accumulate(self.players.generator, self.players.discriminator):
            values = self.objective.play(self.players, real)
        self.state.images += len(real) * self.world
        for name, value in values.items():  # added up on the device; read when a log line is due
            self.sums[name] = self.sums.get(name, 0) + value.detach()
        self.micro_steps += 1

    def _seed_from_clock(self, part: int) -> None:
        """Set the random state from the seed and the number of the first picture of this process's part."""
        position = self.state.images + part * self.accelerator.process_index
        torch.manual_seed((self.config.seed * 0x9E3779B97F4A7C15 + position * 0xBF58476D1CE4E5B9) % 2**63)

    # ------------------------------------------------------------------ setting up

    def _start_accelerator(self) -> Accelerator:
        config = self.config
        if config.report_to != "none":
            _require(config.report_to, f"--report-to {config.report_to}")
        try:
            accelerator = Accelerator(
                mixed_precision=self._precision(),
                gradient_accumulation_steps=config.accumulate,
                log_with=None if config.report_to == "none" else config.report_to,
                project_config=ProjectConfiguration(project_dir=str(self.folder)),
                # Each process keeps the buffers of its own pictures: broadcasting them at every forward pass would
                # change in place what the backward pass of an earlier one still needs.
                kwargs_handlers=[
                    DistributedDataParallelKwargs(broadcast_buffers=False),
                    InitProcessGroupKwargs(timeout=PATIENCE),
                ],
            )
            if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
                raise ValueError("a CPU does not compute in it; bf16 or no will do")
        except ValueError as error:  # a precision that this device doesn't have
            self._forget_accelerate()
            precision = "fp16" if config.mixed_precision == "auto" else config.mixed_precision
            raise UserError(f"--mixed-precision {precision}: {error}") from None
        # What was found here is kept, so that a resumed run computes as it did before.
        self.config = dataclasses.replace(config, mixed_precision=accelerator.mixed_precision)
        return accelerator

    def _precision(self) -> str | None:
        """What Accelerate is asked for; None is whatever it has been set up with."""
        if self.config.mixed_precision != "auto":
            return self.config.mixed_precision
        if self.shares_state or os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no":
            return None
        cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
        state = PartialState(cpu=cpu, timeout=PATIENCE)  # as Accelerator is about to make it
        [precision] = broadcast_object_list([fast.best_precision(state.device)])  # noisy, so one process decides
        return precision

    def _together(self, work: Callable[[], Any]) -> Any:
        """What a part of setting up gives; where it fails in one process, all of them end."""
        error = result = None
        try:
            result = work()
        except UserError as refusal:
            error = refusal
        failed = torch.tensor([error is not None], dtype=torch.int64, device=self.accelerator.device)
        if int(self.accelerator.gather(failed).max()):
            self.agreed = True
            raise error or UserError("another process could not start; see what it said")
        return result

    def _check_processes(self) -> None:
        config, kind = self.config, self.accelerator.distributed_type
        if kind != DistributedType.NO and not kind.value.startswith("MULTI_"):
            raise UserError(f"accelerate is set up for {kind.value}, which this can't use; choose plain multi-GPU")
        if self.accelerator.state.dynamo_plugin.backend != DynamoBackend.NO:
            raise UserError("accelerate is set up for torch dynamo, which this can't use; set it to no")
        started = int(os.environ.get("WORLD_SIZE", 1))
        if started != self.world and not self.shares_state:
            raise UserError(
                f"started as {started} processes, which accelerate takes for {self.world}; "
                "on CPUs torchrun needs ACCELERATE_USE_CPU=true before it"
            )
        parts = config.accumulate * self.world
        if config.batch_size % parts or config.batch_size // parts < 2:
            raise UserError(
                f"--batch-size {config.batch_size}: does not split into parts of at least 2 pictures for {self.world} "
                f"processes × --accumulate {config.accumulate}; try {parts * max(2, config.batch_size // parts)}"
            )

    def _check_alike(self) -> None:
        """Raise a UserError where processes, on several machines, have other pictures or stand elsewhere."""
        pictures = int(self.pictures.fingerprint[:15], 16) if self.pictures else 0
        standing = torch.tensor([[self.state.images, self.state.steps, pictures]], device=self.accelerator.device)
        if (self.accelerator.gather(standing) != standing).any():
            raise UserError("the processes have different pictures or checkpoints; give all machines the same")

    def _open_hub(self) -> Any:
        """What pushes this run, its right to do so checked before any time is spent; None where nothing does."""
        config = self.config
        if not (self.main and config.push_to_hub):
            return None
        from fastgan.publish import Publisher

        every_save = config.hub_strategy == "every_save"
        return Publisher(self.folder, config.push_to_hub, config.hub_public, every_save, config.hub_license, self.say)

    def _data_options(self) -> dict[str, Any]:
        config = self.config
        return {
            "size": (config.model.height, config.model.width),
            "channels": config.channels,
            "config_name": config.dataset_config,
            "split": config.split,
            "image_column": config.image_column,
            "revision": config.revision,
            "fit": config.fit,
            "background": config.background,
        }

    def _load_pictures(self) -> data.Pictures:
        config = self.config
        try:
            pictures = data.load_pictures(
                config.dataset,
                **self._data_options(),
                cache_dir=Path(config.cache_dir) if config.cache_dir else None,
                progress=True,  # shown by the process that prepares them, while the others of this disk wait
            )
        except data.NoRoom as error:
            raise UserError(f"{error}, or use --streaming") from None
        count, parts = len(pictures.images), config.accumulate * self.world
        if config.batch_size > count:
            most = count // parts * parts
            less = f"; add some, or try --batch-size {most}" if most >= 2 * parts else "; add some"
            raise UserError(
                f"--batch-size {config.batch_size}: more than the {count} pictures of {config.dataset}{less}"
            )
        self._say_skipped(pictures.skipped)
        before, now = run_facts(self.folder) if self.resumes else {}, len(pictures.images)
        if before.get("fingerprint", pictures.fingerprint) != pictures.fingerprint:
            self.say(
                f"{config.dataset}: not the pictures that this run began with ({before['dataset'].get('pictures')} "
                f"then, {now} now); it goes on with the new ones"
            )
        return pictures

    def _say_skipped(self, skipped: Sequence[tuple[str, str]]) -> None:
        if news := self.files.write_skipped(skipped):
            self.say(news)

    def _open_stream(self) -> StreamedBatches:
        return stream_batches(self.config.dataset, **self._data_options(), **self._order())

    def _order(self) -> dict[str, Any]:
        """Which pictures come in which order from here on, and which of them to this process."""
        config = self.config
        return {
            "batch_size": config.batch_size // config.accumulate,
            "seed": config.seed,
            "start_images": self.state.images,
            "rank": self.accelerator.process_index,
            "world_size": self.world,
            "flip": config.flip,
            "as_bytes": self.accelerator.device.type != "cpu",
        }

    def _batches(self) -> Iterator[Tensor]:
        """Real pictures of this process, part by part, from where the run stands, on its device."""
        batches = self.stream or data.batches(self.pictures.images, **self._order())
        if self.main:
            source = (self.stream or self.pictures).source
            base = self.base.facts if self.base else None
            fingerprint = self.pictures.fingerprint if self.pictures else None
            write_run_facts(self.folder, source, self._hardware(), base, fingerprint)
        try:
            for batch in batches:
                if self.accelerator.device.type == "cuda":
                    batch = batch.pin_memory()  # only from pinned memory does a copy run beside the computation
                batch = batch.to(self.accelerator.device, non_blocking=self.accelerator.device.type == "cuda")
                yield batch if batch.is_floating_point() else to_float(batch)
        except UserError as error:  # of a stream; the other processes do not meet it, and this one may be silent
            if not self.accelerator.is_local_main_process:
                print(f"error in process {self.accelerator.process_index}: {error}", file=sys.stderr)
            raise

    def _hardware(self) -> str:
        """What this run trains on, in words."""
        device = self.accelerator.device
        if device.type == "cuda":
            name = torch.cuda.get_device_name(device)
        else:
            threads = f"CPU, {torch.get_num_threads()} threads".replace(" 1 threads", " 1 thread")
            name = threads if device.type == "cpu" else device.type.upper()
        return f"{name}, {self.world} processes" if self.world > 1 else name

    def _build_networks(self) -> None:
        """Networks and optimizers for the size at hand."""
        config = self.config.at_level(self.state.level)
        torch.manual_seed(config.seed)  # every process starts from the same weights
        generator = Generator(config.model)
        self.objective = objective_of(config, self.accelerator)
        generator.to_small.requires_grad_(self.objective.judges_small)
        discriminator = self.objective.discriminator()
        if self.base:
            keeps = self.base.fill(generator, discriminator, self.say)
            if config.freeze_d and not keeps:
                raise UserError(f"--freeze-d {config.freeze_d}: {self.base.name} brings nothing that could be kept")
        freeze_blocks(discriminator, config.freeze_d)
        # Fused, Adam on MPS takes no notice of the scaling of fp16 (pytorch/pytorch#186360).
        scaled_on_mps = self.accelerator.scaler is not None and self.accelerator.device.type == "mps"
        adam = {"betas": (config.beta1, config.beta2), "fused": config.fast and not scaled_on_mps}
        g_rate, d_rate = (rate or config.learning_rate for rate in (config.g_learning_rate, config.d_learning_rate))
        g_optimizer, d_optimizer = (
            torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=rate, **adam)
            for network, rate in ((generator, g_rate), (discriminator, d_rate))
        )
        self.ema = EMA(generator.to(self.accelerator.device), config.ema_half_life_kimg, config.ema_warmup)
        if self.base:
            self.base.fill_averaged(self.ema.model)
        with warnings.catch_warnings():
            # PyTorch 2.15 renames the setting that Accelerate passes on; older ones know only this name.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self.players = Players(*self.accelerator.prepare(generator, discriminator, g_optimizer, d_optimizer))

    def _rehearse(self) -> None:
        """One step at full size on blank pictures, forgotten at once: too little memory is said now, not later."""
        level, self.state.level = self.state.level, self.levels[-1]
        self._build_networks()
        model = self.config.model
        shape = (self.part, model.channels, model.height, model.width)
        for _ in range(self.config.accumulate):
            with self.accelerator.accumulate(self.players.generator, self.players.discriminator):
                self.objective.play(self.players, torch.zeros(shape, device=self.accelerator.device))
        del self.players, self.objective, self.ema
        self.accelerator.free_memory()
        self.state.level = level

    @property
    def part(self) -> int:
        """How many pictures one process takes at a time."""
        return self.config.batch_size // self.config.accumulate // self.world

    @property
    def grown(self) -> bool:
        """Whether it trains at full size."""
        return self.state.level == self.levels[-1]

    @property
    def command(self) -> str:
        """What goes on with this run."""
        return f"{train_command()} --resume {quoted(self.folder)}"

    def grow(self, level: int) -> None:
        """Go on at a larger size: layers that fit go on, new ones enlarge, optimizers and memory begin anew."""
        before, _ = self._parts()
        # What new layers begin with must not depend on when the average was last drawn from.
        settled = copy.deepcopy(self.ema).settle(before["generator"], batch_size=self.part).train()
        del self.players, self.objective, self.ema
        self.accelerator.free_memory()
        self.state.level, self.trained, self.evaluated = level, True, -1
        self._build_networks()
        now, _ = self._parts()
        fill_from(now["discriminator"], before["discriminator"])
        double_to(now["generator"], before["generator"], self.part)
        now["ema"].load_state_dict(now["generator"].state_dict())
        double_to(now["ema"], before["ema"], self.part, settled)
        for network in now.values():  # each process has measured by itself how new layers begin
            broadcast(network.state_dict())
        config = self.ema.model.config
        self.say(f"{self.state.kimg:.1f} kimg: pictures grow to {config.width}x{config.height}")

    def _start_evaluator(self) -> Evaluator | None:
        """What measures the generator now and then; None where that is off or there is too little to compare with."""
        config = self.config
        if not self.main or not config.eval_images:
            return None
        if self.pictures is None or len(self.pictures.images) < 6:
            self.say("KID is not measured: that needs at least 6 pictures, and not --streaming")
            return None
        if config.eval_network in config.teachers:
            self.say(f"--eval-network {config.eval_network} also teaches the model: its figures will flatter it")
        cache = Path(config.cache_dir) if config.cache_dir else None
        device = self.accelerator.device
        return Evaluator(config.eval_network, self.pictures, config.eval_images, config.teachers, cache, device)

    def _parts(self) -> tuple[dict[str, nn.Module], dict[str, torch.optim.Optimizer]]:
        """What a checkpoint holds, by name."""
        unwrap = self.accelerator.unwrap_model
        networks = {
            "generator": unwrap(self.players.generator),
            "discriminator": unwrap(self.players.discriminator),
            "ema": self.ema.model,
        }
        return networks, {"generator": self.players.g_optimizer, "discriminator": self.players.d_optimizer}

    def _load(self, checkpoints: Sequence[Path]) -> None:
        checkpoint = checkpoints[-1]
        with _with_way_back(checkpoints):
            self.state, memory, scaler = load_checkpoint(checkpoint, *self._parts())
        self.best = best_of_run(self.folder)  # may be of later than the checkpoint
        self.objective.remember({name: tensor.to(self.accelerator.device) for name, tensor in memory.items()})
        if scaler and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(scaler)
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
        if not all(math.isfinite(value) for value in values.values()) or not self._finite():
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

    def _finite(self) -> bool:
        """Whether all weights are numbers: those of the very last step may not be though its loss still was."""
        networks, _ = self._parts()
        whole = [weight.isfinite().all() for network in networks.values() for weight in network.parameters()]
        return bool(torch.stack(whole).all())

    def _record(self, values: dict[str, Any]) -> None:
        state = self.state
        line = {"images": state.images, "step": state.steps, "seconds": round(state.seconds, 2), **values}
        with self._not_worth_a_run():
            self.files.record(line)
        numbers = {name: value for name, value in values.items() if type(value) in (int, float)}
        self.accelerator.log(numbers, step=self.state.images)

    def _settled(self) -> Generator:
        """The averaged generator, ready for eval mode."""
        return self.ema.settle(self.accelerator.unwrap_model(self.players.generator), batch_size=self.part)

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
        sheet = sampling.grid(torch.cat(list(sampling.sample(generator, GRID_SEEDS))))
        drawn = self.folder / SAMPLES / f"{self.state.images:010d}.png"
        write_file(drawn, lambda temporary: sheet.save(temporary))
        write_file(self.folder / SAMPLES_FILE, lambda temporary: shutil.copyfile(drawn, temporary))
        if rows := self.objective.panel():
            size = rows[1].shape[2:]
            rows = [nn.functional.interpolate(row.detach().float(), size=size, mode="area") for row in rows]
            panel = sampling.grid(to_uint8(torch.cat(rows)).cpu(), columns=len(rows[0]))
            write_file(self.folder / "reconstruction.png", lambda temporary: panel.save(temporary))
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
        if self.stream:
            self._say_skipped(self.stream.skipped)
        generator = self._settled()
        self._save_checkpoint(generator)
        with self._not_worth_a_run():
            self.draw_samples(generator)
            write_report(self.folder)

    def _save_checkpoint(self, generator: Generator) -> None:
        """Write the generator and a checkpoint that belongs to it; the newest stay, and the best model's."""
        save_model(generator, self.folder)
        networks, optimizers = self._parts()
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler else None
        folder, keep, best = self.folder / CHECKPOINTS, self.config.keep_checkpoints, self.best and self.best.images
        save_checkpoint(folder, self.state, networks, optimizers, self.objective.memory(), scaler, keep, best)

    def evaluate(self) -> None:
        """Measure the generator, keep it in best/ if none was better, and say what has begun to go wrong."""
        self.log()
        if self.wish == Stop.DIVERGED or self.evaluator is None:
            return
        started, self.evaluated = time.monotonic(), self.state.images
        generator = self._settled()
        try:
            figures, alike = self.evaluator(generator)
        except UserError as error:  # a full disk, perhaps; the run itself is well
            self.say(f"Not measured at {self.state.kimg:.1f} kimg: {error}")
            return
        seconds = round(time.monotonic() - started, 2)
        copies, kid = watch.rank(figures.to_dict())
        compared_with = self.pictures.fingerprint
        old = self.best if self.best and self.best.pictures in ("", compared_with) else None
        if self.grown and (old is None or (copies, kid) < (old.copies, old.kid)):
            self.best = Best(kid, self.state.images, copies, compared_with)
            keep_best(self.folder, generator, self.best)
            if not checkpoint_of(self.folder / CHECKPOINTS, self.state.images).exists():
                self._save_checkpoint(generator)  # so that a run can go on from its best, and others learn on from it
        measured, pictures = self.evaluator, self.pictures
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

    # ------------------------------------------------------------------ stopping

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM and a closed terminal stop the run after the step at hand; Ctrl-C again at once."""

        def interrupt(number, frame):
            if number in HANG_UP and os.name != "nt":  # there it may be Ctrl-Break too
                with open(os.devnull, "w") as nowhere:  # what would still be said has nowhere to go
                    for stream in (sys.stdout, sys.stderr):
                        if stream.isatty():
                            os.dup2(nowhere.fileno(), stream.fileno())
            if self.saved:
                raise KeyboardInterrupt(f"Stopped and saved at {self.state.kimg:.2f} kimg. Go on with: {self.command}")
            if self.pressed and number == signal.SIGINT:
                raise KeyboardInterrupt("Stopped at once; the last checkpoint is whole.")
            self.pressed, self.wish = True, max(self.wish, Stop.INTERRUPTED)
            self.say("Stopping after this step and saving; press Ctrl-C again to stop without saving")

        if threading.current_thread() is not threading.main_thread():  # where nobody can set handlers
            yield
            return
        # nohup has a closed terminal ignored, and so it stays.
        closed = [number for number in HANG_UP if signal.getsignal(number) != signal.SIG_IGN]
        with handling(dict.fromkeys((signal.SIGINT, signal.SIGTERM, *closed), interrupt)):
            yield

    def _decide(self) -> None:
        """Set whether to stop and which size is due, the same in every process."""
        images, budget = self.state.images, self.budget
        if budget.used_up(images):
            self.wish = max(self.wish, Stop.FINISHED)
        if self.world == 1 or images >= budget.images or self.state.steps % AGREE_EVERY == 0:
            self.stop, self.due = self._agreed(self.wish, budget.level_by_time())
        self.due = max(self.due, budget.level_by_images(images))

    def _agreed(self, *values: int) -> Sequence[int]:
        """The largest of each among all processes."""
        if self.world == 1:
            return values
        return self.accelerator.gather(torch.tensor([values], device=self.accelerator.device)).amax(0).tolist()

    def _finish(self) -> Path:
        """Save what there is and say where it is."""
        self.log()  # which may find that the loss is no longer a number
        [self.stop] = self._agreed(max(self.stop, self.wish))
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
        self.accelerator.wait_for_everyone()
        self.agreed = True
        not_there = f"\n{self.publisher.where_it_is(self.state.kimg)}" if self.publisher else ""
        if self.stop == Stop.DIVERGED:
            raise UserError(
                f"{self.folder}: the loss is no longer a number after {self.state.kimg:.2f} kimg. Its checkpoints are "
                f"from before; start anew with a lower --learning-rate, or with --mixed-precision no{not_there}"
            )
        if self.stop == Stop.INTERRUPTED and not self.state.images:
            raise KeyboardInterrupt(f"Stopped before the first step; {self.folder} holds nothing to go on from")
        if self.stop == Stop.INTERRUPTED:
            size = "" if self.grown else f", still at {self.ema.model.config.width} pixels"
            at = f"{self.state.kimg:.2f} kimg{size}"
            raise KeyboardInterrupt(f"Stopped and saved at {at}. Go on with: {self.command}{not_there}")
        self.say(
            f"{self.state.kimg:.2f} kimg in {self.state.seconds / 60:.1f} min. See {self.folder / REPORT_FILE}\n"
            f"More pictures: fastgan sample {quoted(self.folder)} --seeds 0-63 --grid grid.png"
        )
        if self.best:
            self.say(f"Best KID {self.best.kid:.4f}, at {self.best.images / 1000:.2f} kimg: {self.folder / BEST}")
        if self.publisher:  # last, so that no other process waits for the upload
            self.publisher.finish(self.state.kimg)
        return self.folder

    def close(self) -> None:
        """End trackers and the process group, and let the next run of this process choose its own precision."""
        self.stream = None  # ends its workers
        if self.agreed or self.world == 1:
            self.accelerator.end_training()
        else:  # NCCL would wait here for processes that wait for this one
            for tracker in self.accelerator.trackers:
                tracker.finish()
        self._forget_accelerate()
        self.files.leave()

    def _forget_accelerate(self) -> None:
        """Accelerate keeps device and precision for the life of the process; put that back as we found it."""
        if not self.shares_state:
            AcceleratorState._reset_state(reset_partial_state=True)

    # ------------------------------------------------------------------ talking

    def say(self, text: str) -> None:
        """Print a line above the progress bar, once for all processes."""
        if self.main:
            tqdm.write(text, file=sys.stderr)

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
