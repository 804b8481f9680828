"""What the peers' processes share."""

import json
import resource


def peak_rss_gb():
    """The most memory that this process has had, 10**9 bytes (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def report(**values):
    """The result: the last line of standard output."""
    print(json.dumps({**values, "rss_gb": peak_rss_gb()}), flush=True)
