"""Machines of Ray on this one: each has its own workers, and can be lost with them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from .processes import environment

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
"""For tests that start Ray."""

MEMORY = 80 * 2**20
"""Bytes of each machine's object store."""

_SOON = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_failure_threshold": 15}
"""A lost machine is noticed within seconds."""


class Machines:
    """Machines with one core each, this process connected to them.

    Args:
        cluster: Of Ray.
        others: The machines that may be lost; this process hangs on the first one.
    """

    def __init__(self, cluster: Any, others: list[Any]):
        self.cluster, self.others = cluster, others

    def lose_one(self) -> None:
        """Kills a machine and all its workers, without a word."""
        self.cluster.remove_node(self.others.pop(), allow_graceful=False)

    def add_one(self) -> None:
        """Another machine with one core."""
        self.others.append(self.cluster.add_node(num_cpus=1, object_store_memory=MEMORY))


@contextmanager
def machines(count: int) -> Iterator[Machines]:
    """Starts so many machines and stops them; tests that do so wait for one another, whichever process runs them."""
    import ray
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # names of sockets are short
    settings = {"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
    settings |= {"RAY_worker_niceness": "0", "PYTHONPATH": environment()["PYTHONPATH"]}
    before = {name: os.environ.pop(name, None) for name in [*settings, "RAY_ADDRESS"]}
    os.environ |= settings
    cluster = None
    try:
        with FileLock(Path(os.environ["HF_HOME"]) / "ray.lock"):
            head = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False, "_system_config": _SOON}
            cluster = Cluster(initialize_head=True, head_node_args=head)
            started = Machines(cluster, [])
            for _ in range(count - 1):
                started.add_one()
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            yield started
    finally:
        ray.shutdown()
        if cluster is not None:
            cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
