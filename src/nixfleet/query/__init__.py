"""The query language over devices, one for console, CLI and API; pure text and records, no IO, no clock of its own.

    status:failed,drifted tag.site:berlin system:*-24.11* seen>10m wave:2 -reboot:pending kiosk

Terms are joined by AND, the values of a term by OR, ``-`` negates a term. ``*`` and ``?`` are wildcards.
"""

from nixfleet.query.compiler import Predicate, compile_query
from nixfleet.query.fields import FIELDS, STATUSES, Status, status_of
from nixfleet.query.syntax import Query, QueryError, Term, parse, to_text

__all__ = [
    "FIELDS",
    "STATUSES",
    "Predicate",
    "Query",
    "QueryError",
    "Status",
    "Term",
    "compile_query",
    "parse",
    "status_of",
    "to_text",
]
