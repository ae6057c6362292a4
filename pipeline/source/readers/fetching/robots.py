"""X-Robots-Tag: whether a server's answer says that its image must not be used by us.

A header is a list of directives, which hold for everybody or, after `name:`, for the crawler of that name.
"""

import re
from collections.abc import Iterable

FORBIDDING = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
_WITH_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})  # no crawlers


def forbidden_by(headers: Iterable[str], user_agent: str) -> str | None:
    """Return the first directive that forbids the use to this user agent; None if all allow it."""
    own = re.split(r"[/\s(]", user_agent.strip(), maxsplit=1)[0].lower()  # `deed-pipeline/0.1 (+mailto:...)`
    for header in headers:
        meant = True
        for item in header.lower().split(","):
            name, colon, rest = (part.strip() for part in item.partition(":"))
            if colon and name not in _WITH_VALUE:
                meant, directive = name == own, rest
            else:
                directive = name
            if meant and directive in FORBIDDING:
                return directive
    return None
