"""Functions of work units that worker processes can import."""

import os
import pickle
import signal
import time
from pathlib import Path


def square(unit):
    return unit * unit


def first_time(folder, unit):
    """Tell whether no try of this unit has begun yet."""
    try:
        (Path(folder) / f"tried-{unit}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def killed_once(folder, doomed, unit):
    if unit in doomed and first_time(folder, unit):
        os.kill(os.getpid(), signal.SIGKILL)
    return square(unit)


def leaves_once(folder, doomed, unit):
    if unit in doomed and first_time(folder, unit):
        os._exit(137)
    return square(unit)


def out_of_memory_once(folder, doomed, unit):
    if unit in doomed and first_time(folder, unit):
        raise MemoryError
    return square(unit)


def killed_always(doomed, unit):
    if unit == doomed:
        os.kill(os.getpid(), signal.SIGKILL)
    return square(unit)


def slow(seconds, unit):
    time.sleep(seconds)
    return os.getpid()


def fails(doomed, unit):
    if unit == doomed:
        raise ValueError("no good")
    return square(unit)


class Stubborn(Exception):
    """Cannot be unpickled: its arguments are not those of its constructor."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def raises_stubborn(unit):
    raise Stubborn(unit, unit)


def returns_a_lambda(unit):
    return lambda: unit


class Loaded:
    """Notes each process in which it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __setstate__(self, state):
        self.__dict__.update(state)
        with (Path(self.folder) / f"loaded-{os.getpid()}").open("a") as stream:
            stream.write("x")

    def __call__(self, unit):
        return unit + 1


def slow_square(seconds, unit):
    time.sleep(seconds)
    return square(unit)


def slow_first(folder, unit):
    first_time(folder, unit)
    time.sleep(0.8 if unit == 0 else 0)


def soon_stuck(unit):
    time.sleep(0.05 if unit < 14 else 60)
    return os.getpid()


def length(unit):
    return len(unit)


class WillNotPickle:
    """Refuses to be pickled as the pickle module itself does."""

    def __reduce__(self):
        raise pickle.PicklingError("no way")
