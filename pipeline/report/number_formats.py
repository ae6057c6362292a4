"""Numbers as people read them. None is "unknown", never zero."""

UNKNOWN = "unknown"
_LEAST_MONEY = 0.0001  # less is told as less than this
_SIGNS = {"USD": "$", "EUR": "€", "GBP": "£"}


def count(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.0f}"


def number(value: float | None, digits: int = 3) -> str:
    """`digits` significant ones, without exponent where that is readable."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    text = f"{value:.{digits}g}"
    if "e" not in text or abs(value) < 1e-6:
        return text
    return f"{value:.{digits - 1 - int(text.partition('e')[2])}f}".rstrip("0")


def share(value: float | None) -> str:
    """`0.4151` -> `41.5 %`."""
    if value is None:
        return UNKNOWN
    percent = 100 * value
    if 0 < abs(percent) < 0.01:
        return "< 0.01 %" if percent > 0 else "> -0.01 %"
    return f"{percent:.2f} %" if 0 < abs(percent) < 0.1 or 99.9 < percent < 100 else f"{percent:.1f} %"


def seconds(value: float | None) -> str:
    """`0.0123` -> `12.3 ms`, `75` -> `1:15 min`, `4000` -> `1:06:40 h`."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0 s"
    if abs(value) < 1:
        return f"{number(value * 1e3)} ms"
    if value < 60:
        return f"{number(value)} s"
    minutes, second = divmod(round(value), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:,}:{minute:02d}:{second:02d} h" if hours else f"{minute}:{second:02d} min"


def hours(value_s: float | None) -> str:
    """Hours of devices, which may be many; short times as they are."""
    if value_s is None or abs(value_s) < 360:
        return seconds(value_s)
    return f"{number(value_s / 3600)} h"


def money(value: float | None, currency: str) -> str:
    if value is None:
        return UNKNOWN
    if 0 < value < _LEAST_MONEY:
        return f"< {money(_LEAST_MONEY, currency)}"
    text = f"{value:,.2f}" if value >= 1 or value == 0 else number(value)
    sign = _SIGNS.get(currency)
    return f"{sign}{text}" if sign else f"{text} {currency}"


def size(value_bytes: float | None) -> str:
    if value_bytes is None:
        return UNKNOWN
    for unit in ("B", "kB", "MB", "GB"):
        if value_bytes < 1000:
            return f"{number(value_bytes)} {unit}"
        value_bytes /= 1000
    return f"{number(value_bytes)} TB"
