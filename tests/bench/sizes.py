"""How much each bench does: in full, and with --quick, which only shows that the benches work."""

FULL = {
    "snapshot_rows": 200_000,
    "warm_rows": 20_000,            # before anything is timed: compilers and caches are warm
    "transaction_rows": 100_000,    # one INSERT
    "hundreds_rows": 50_000,        # in transactions of 100
    "single_rows": 50_000,          # in transactions of one
    "latency_s": 120, "peer_latency_s": 60,
    "slow_s": 60, "peer_slow_s": 20,   # one change a second
    "idle_s": 20,
    "large_rows": 2_000_000,        # the large transaction
    "outage_s": 600,
    "growth_rows": (100_000, 1_000_000, 10_000_000),
    "growth_step": 500_000,         # rows in a transaction that fills
    "growth_sample": 100_000,       # rows inserted and rows updated at each size
    "files": 100_000,               # of a folder, and lines of one file
}
QUICK = {
    "snapshot_rows": 5_000, "warm_rows": 500, "transaction_rows": 5_000, "hundreds_rows": 2_000, "single_rows": 200,
    "latency_s": 3, "peer_latency_s": 3, "slow_s": 3, "peer_slow_s": 3, "idle_s": 2, "large_rows": 20_000, "outage_s": 5,
    "growth_rows": (2_000, 4_000), "growth_step": 1_000, "growth_sample": 1_000, "files": 2_000,
}


def sizes(options):
    """The table of this run, as changed on the command line."""
    chosen = dict(QUICK if options.quick else FULL)
    if options.rows:
        chosen["snapshot_rows"] = options.rows
    if options.outage:
        chosen["outage_s"] = options.outage
    if options.growth:
        chosen["growth_rows"] = tuple(n for n in chosen["growth_rows"] if n <= options.growth)
    return chosen
