"""How long a run is, how often things are done in it, and which size of picture is due."""

import math
import time

from fastgan.config import TrainConfig, parse_every
from fastgan.growing import level_at


class Every:
    """Says when something at an interval such as "10min" or "5kimg" is due."""

    def __init__(self, text: str, images: int):
        self.number, self.unit = parse_every(text)
        self.images, self.started, self.seconds = images, time.monotonic(), 0.0

    def due(self, images: int) -> bool:
        """Whether a multiple of the interval has passed since this was last asked; so equal ones fall together."""
        seconds = time.monotonic() - self.started
        if self.unit == "min":
            interval, now, before = 60 * self.number, seconds, self.seconds
        else:
            interval, now, before = 1000 * self.number, images, self.images
        self.images, self.seconds = images, seconds
        return math.floor(now / interval) > math.floor(before / interval)


class Budget:
    """The limits of a run, which begins or goes on when this is made.

    Args:
        config: the limits and the sizes.
        before: seconds that the run has trained already.
    """

    def __init__(self, config: TrainConfig, before: float):
        self.levels, self.before = config.levels, before
        self.images, self.limit = max(1, int(1000 * config.duration_kimg)), "--duration-kimg"
        if config.max_steps is not None and config.max_steps * config.batch_size <= self.images:
            self.images, self.limit = config.max_steps * config.batch_size, "--max-steps"
        self.seconds = math.inf if config.max_minutes is None else 60 * config.max_minutes
        self.started = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds since it began or went on."""
        return time.monotonic() - self.started

    def used_up(self, images: int) -> bool:
        """Whether either limit is reached."""
        return images >= self.images or self.spent >= self.seconds

    def images_at(self, rate: float, images: int) -> int:
        """How many pictures will have been shown in the end, at so many a second from here on."""
        if math.isinf(self.seconds):
            return self.images
        return min(self.images, round(images + rate * max(0.0, self.seconds - self.spent)))

    def level_by_images(self, images: int) -> int:
        """The size that is due by the number of pictures shown, the same in every process."""
        return level_at(self.levels, min(1.0, images / self.images))

    def level_by_time(self) -> int:
        """The size that is due by the clock, which processes read at different moments."""
        return level_at(self.levels, (self.before + self.spent) / (self.before + self.seconds))
