"""What scripts/bench_peers.py starts, each a process of its own, so that its memory is its own."""
