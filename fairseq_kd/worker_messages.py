"""Lets the workers of one training send each other a checkpoint, which torch >= 2.6 forbids.

On a restart fairseq reads the checkpoint in the first worker alone and sends it to the others, who
unpickle the message as torch unpickles a file: weights only. In it are the options as an OmegaConf
container and a mark in the place of each tensor. Both are data, so they are named safe here.
"""

from collections import defaultdict
from typing import Any

import omegaconf
import torch
from fairseq.distributed.utils import _TensorPlaceholder
from omegaconf.base import ContainerMetadata, Metadata

torch.serialization.add_safe_globals(
    [
        _TensorPlaceholder,
        omegaconf.DictConfig,
        omegaconf.ListConfig,
        omegaconf.AnyNode,
        ContainerMetadata,
        Metadata,
        defaultdict,
        dict,
        list,
        int,
        (Any, "typing.Any"),
    ]
)
