# SPDX-License-Identifier: Apache-2.0
"""Small helpers shared by the tests."""

import concurrent.futures
import time

from prometheus_client.parser import text_string_to_metric_families

# A batch of the server waits this long for further texts: a window in which a test finds requests queued. It is far longer than the steps
# inside it take, and no test asserts on it.
HOLD = ("--max-wait-us", "4000000", "--max-batch", "1000")


def metric(client, name, **labels):
    """Value of one sample of /metrics; 0 when it is not there (yet)."""
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == name and all(sample.labels.get(k) == v for k, v in labels.items()):
                return sample.value
    return 0.0


def wait_until(condition, what, timeout_s=30):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {timeout_s} s"
        time.sleep(0.01)


class Background:
    """Calls that run while the test looks at the server."""

    def __init__(self, calls):
        self.pool = concurrent.futures.ThreadPoolExecutor(len(calls))
        self.futures = [self.pool.submit(call) for call in calls]

    def results(self):
        try:
            return [future.result(timeout=120) for future in self.futures]
        finally:
            self.pool.shutdown()
