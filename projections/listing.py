"""Which sessions to list, and the query that finds them without walking more of the table than it must."""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from projections.reader import Parameters

Order = Literal["accessed", "created"]
RARE = 1_000  # a label with fewer sessions is looked up; a commoner one is checked along the list


class Listing(Struct, frozen=True):
    """Which sessions to list, and in which order: the latest access first, or the newest first.

    A session moves to the front of the first order whenever it is used, so that whoever walks all pages may miss it;
    the second order never changes. `owner` None means sessions of nobody, unless `any_owner`. `after` is
    (accessed_at_us, no) of the last one seen.
    `metadata` entries must all be there: by label only, so compare what the log holds with `labels.matches`.
    """

    owner: str | None = None
    any_owner: bool = False
    status: str = "active"
    metadata: Mapping[str, str] = {}
    after: tuple[int, int] | None = None
    order: Order = "accessed"
    limit: int = 100


class Label(Struct, frozen=True, order=True):
    """A wanted label and how many sessions have it, counted up to RARE."""

    sessions: int
    label: int


def label_counts(labels: Sequence[int]) -> str:
    """A query for one row: how many sessions have each label, counted up to RARE."""
    count = "(SELECT count(*) FROM (SELECT 1 FROM labels WHERE label = {} LIMIT {}))"
    return f"SELECT {', '.join(count.format(int(label), RARE) for label in labels)}"


def listing_query(listing: Listing, labels: Sequence[Label]) -> tuple[str, Parameters]:
    """The query for the sessions' states, and its parameters.

    A rare label leads to its few sessions, which are then sorted. Otherwise the list is walked in its own order,
    which stops at the limit; a common label is checked on the way.
    """
    source, terms = "sessions s", ["s.status = :status"]
    wanted = sorted(labels)
    if wanted and wanted[0].sessions < RARE:
        source = f"labels d CROSS JOIN sessions s ON s.no = d.no AND d.label = {int(wanted.pop(0).label)}"
    terms += [f"EXISTS (SELECT 1 FROM labels WHERE label = {int(w.label)} AND no = s.no)" for w in wanted]  # noqa: S608  integers
    if not listing.any_owner:
        terms.append("s.owner = :owner")
    is_by_access = listing.order == "accessed"
    if listing.after is not None:
        terms.append("(s.accessed_at_us, s.no) < (:accessed_at_us, :no)" if is_by_access else "s.no < :no")
    order = "s.accessed_at_us DESC, s.no DESC" if is_by_access else "s.no DESC"
    query = f"SELECT s.state FROM {source} WHERE {' AND '.join(terms)} ORDER BY {order} LIMIT :limit"  # noqa: S608  the above
    at_us, no = listing.after or (None, None)
    return query, {
        "status": listing.status,
        "owner": listing.owner or "",
        "accessed_at_us": at_us,
        "no": no,
        "limit": listing.limit,
    }
