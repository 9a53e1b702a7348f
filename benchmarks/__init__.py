"""Where the README's figures come from: `python -m benchmarks [streaming|idle|resume|all] [--quick]` (`make bench`).

The gateway runs next to its peers: the endpoint that one would write without it, and a pump that only moves bytes. All
are driven in turns by the same load on the same core, so that the ratios hold also where the absolute figures do not.
"""
