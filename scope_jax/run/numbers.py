"""Numbers as people read them."""


def format_number(value: float | None) -> str:
    """A number as people read it; a dash where there is none."""
    if value is None:
        return "-"
    if float(value).is_integer() and abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
