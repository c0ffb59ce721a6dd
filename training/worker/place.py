"""Where a trainer's process computes: a GPU when there is one, else the last cores, which the engine leaves free."""

import os

import torch

from training.errors import SettingsRefused
from training.settings import TrainingSection


def place(section: TrainingSection, rank: int = 0) -> torch.device:
    """Take the device, or the cores, of process `rank` of the trainer's; call once, before anything is computed."""
    wants_gpu = section.device == "cuda" or (section.device == "auto" and torch.cuda.is_available())
    if wants_gpu:
        if not torch.cuda.is_available():
            raise SettingsRefused("BURNISH_TRAINING_DEVICE is cuda, but torch finds no GPU; set it to auto or cpu")
        if (found := torch.cuda.device_count()) < section.processes:
            raise SettingsRefused(
                f"BURNISH_TRAINING_PROCESSES is {section.processes}, but torch finds {found} GPU(s), and each process "
                "needs one of its own; lower it, or set BURNISH_TRAINING_DEVICE to cpu"
            )
        torch.cuda.set_device(rank)
        return torch.device("cuda", rank)
    cores = own_cores(sorted(os.sched_getaffinity(0)), section.threads, rank)
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    return torch.device("cpu")


def own_cores(cores: list[int], threads: int, rank: int) -> list[int]:
    """The last `threads` cores for the first process, those before them for the next; round again where none are
    left."""
    last = len(cores) - rank % max(1, len(cores) // threads) * threads
    return cores[max(0, last - threads) : last]
