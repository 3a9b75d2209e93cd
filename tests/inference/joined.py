"""Import it before anything that starts JAX's devices: joins two processes where `JOIN`, "number port", says so."""

import os

from manymodes import distributed

IS_ONE_OF_TWO = "JOIN" in os.environ
if IS_ONE_OF_TWO:
    number, port = os.environ["JOIN"].split()
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    distributed.start(f"127.0.0.1:{port}", 2, int(number))
