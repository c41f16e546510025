"""Lets data-parallel workers exchange checkpoints, which torch >= 2.6 blocks by default.

On a restart fairseq reads the checkpoint in the first worker alone and sends it to the others, who
unpickle the message as torch unpickles a file: weights only. In it are the options as an OmegaConf
container and a mark in the place of each tensor. Both are safe in a message, and only there: in a
file, a container could be made to look up ``${oc.env:NAME}`` while it is unpickled.
"""

import functools
from collections import defaultdict
from typing import Any

import omegaconf
import torch
from fairseq.distributed import utils
from omegaconf.base import ContainerMetadata, Metadata

IN_MESSAGES = [
    utils._TensorPlaceholder,
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

_broadcast_object_slow = utils._broadcast_object_slow


@functools.wraps(_broadcast_object_slow)
def broadcast_object_slow(*args: Any, **kwargs: Any) -> Any:
    """As fairseq's, of messages that hold ``IN_MESSAGES``, too."""
    with torch.serialization.safe_globals(IN_MESSAGES):
        return _broadcast_object_slow(*args, **kwargs)


utils._broadcast_object_slow = broadcast_object_slow
