"""Records of two runs, made comparable."""


def comparable(record):
    """A record of ``metrics.jsonl`` without what the clock and the machine decide."""
    return {k: v for k, v in record.items() if not k.startswith(("time/", "perf/"))}
