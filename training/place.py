"""Where a trainer computes: a GPU when there is one, else the last cores, which the engine leaves free."""

import os

import torch

from training.errors import SettingsRefused
from training.settings import TrainingSection


def place(section: TrainingSection) -> torch.device:
    """Take the device and the cores; call once, before anything is computed."""
    wants_gpu = section.device == "cuda" or (section.device == "auto" and torch.cuda.is_available())
    if wants_gpu:
        if not torch.cuda.is_available():
            raise SettingsRefused("BURNISH_TRAINING_DEVICE is cuda, but torch finds no GPU; set it to auto or cpu")
        return torch.device("cuda")
    cores = sorted(os.sched_getaffinity(0))[-section.threads :]
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    return torch.device("cpu")
