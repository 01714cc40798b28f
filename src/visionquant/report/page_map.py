"""Which pages there are, by what readers ask, and which notebooks each of them shows."""

PAGES = (
    ("results", "Results", ("latency", "memory", "throughput", "statistics")),
    ("accuracy", "Accuracy", ("accuracy",)),
    ("decide", "Decide", ("costs",)),
    ("int8", "Slow INT8?", ("int8",)),
    ("trust", "Trust", ("conditions", "platforms", "fidelity", "study")),
    ("claims", "Claims", ("claims",)),
    ("supplement", "Supplement", ("supplement",)),
    ("recipes", "Recipes", ("keeping", "guide")),
)


def place(part: str) -> str:
    """Where a notebook stands, as a link between pages; one that no page names has its own."""
    page = next((name for name, _, parts in PAGES if part in parts), part)
    return f"{page}.html#{part}"
