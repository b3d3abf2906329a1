"""The SQL of the session list, which scans no more of the table than it must."""

from collections.abc import Sequence

from msgspec import Struct

from projections.port import SessionListQuery
from projections.sql.parameters import QueryParameters

SESSIONS_SCANNED_MAX = 10_000  # sessions that one request scans for common labels: about ten milliseconds
RARE_LABEL_MAX = 1_000  # a label with fewer sessions is looked up; a more common one is checked along the list


# A session that owes a reply does not expire before that has ended.
_OVERDUE = "s.is_open = 0 AND s.expires_at_us <= :now_us"
_STATUS = {"active": f"s.status = 'active' AND NOT ({_OVERDUE})", "expired": "s.status = 'expired'"}
_ORDER = {"accessed": "accessed_at_us DESC, no DESC", "created": "no DESC"}
_COLUMNS = "s.state, s.accessed_at_us, s.no"


class LabelCount(Struct, frozen=True, order=True):
    """A wanted label and how many sessions have it, counted up to RARE_LABEL_MAX."""

    sessions: int
    label: int


def label_counts_sql(labels: Sequence[int]) -> str:
    """A query for one row: how many sessions have each label, counted up to RARE_LABEL_MAX."""
    count = "(SELECT count(*) FROM (SELECT 1 FROM labels WHERE label = {} LIMIT {}) AS labelled)"
    return f"SELECT {', '.join(count.format(int(label), RARE_LABEL_MAX) for label in labels)}"


def session_list_sql(
    listing: SessionListQuery, labels: Sequence[LabelCount], last: tuple[int, int] | None = None
) -> tuple[str, QueryParameters]:
    """The query for the sessions' states, and its parameters.

    The few sessions with a rare label are looked up and sorted. Otherwise the list is scanned in its own order up to
    the limit, or to the session at `last`; a common label is checked for each session.
    """
    label, terms = _filters(listing, labels)
    if last is not None:
        is_by_access = listing.order == "accessed"
        terms.append("(s.accessed_at_us, s.no) >= (:last_at_us, :last_no)" if is_by_access else "s.no >= :last_no")
    source = "sessions s" if label is None else _with_label(label)
    order = _ORDER[listing.order]
    where = " AND ".join([_STATUS[listing.status], *terms])
    query = f"SELECT {_COLUMNS} FROM {source} WHERE {where} ORDER BY s.{order.replace(', ', ', s.')} LIMIT :limit"  # noqa: S608  the above
    if listing.status == "expired":
        # Sessions whose expiry is not recorded yet: few, unless the service has been down. They are sorted each time.
        source = "sessions s INDEXED BY sessions_by_expiry" if label is None else source
        where = " AND ".join(["s.status = 'active'", _OVERDUE, *terms])
        overdue = f"SELECT {_COLUMNS} FROM {source} WHERE {where}"  # noqa: S608  the above
        either = f"SELECT * FROM ({query}) AS ended UNION ALL {overdue}"  # noqa: S608  the above
        query = f"SELECT * FROM ({either}) AS either ORDER BY {order} LIMIT :limit"  # noqa: S608  the above
    return f"SELECT state FROM ({query}) AS listed", _parameters(listing, last)  # noqa: S608  the above


def scan_end_sql(listing: SessionListQuery) -> tuple[str, QueryParameters]:
    """The query for the cursor (as in `SessionListQuery.after`) of the last session that one request may scan."""
    where = " AND ".join(["s.status = :status", *_list_conditions(listing)])
    order = f"s.{_ORDER[listing.order].replace(', ', ', s.')}"
    query = f"SELECT s.accessed_at_us, s.no FROM sessions s WHERE {where} ORDER BY {order} LIMIT 1 OFFSET :others"  # noqa: S608  the above
    return query, {**_parameters(listing), "status": listing.status, "others": SESSIONS_SCANNED_MAX - 1}


def has_rare_label(labels: Sequence[LabelCount]) -> bool:
    """Whether to look up the sessions of the rarest label instead of scanning the list."""
    return bool(labels) and min(labels).sessions < RARE_LABEL_MAX


def _filters(listing: SessionListQuery, labels: Sequence[LabelCount]) -> tuple[int | None, list[str]]:
    """The label by which to look up the sessions, if one is rare enough; and all other conditions."""
    rare, terms = None, list[str]()
    wanted = sorted(labels)
    if has_rare_label(wanted):
        rare = int(wanted.pop(0).label)
    terms += [f"EXISTS (SELECT 1 FROM labels WHERE label = {int(w.label)} AND no = s.no)" for w in wanted]  # noqa: S608  integers
    return rare, [*terms, *_list_conditions(listing)]


def _list_conditions(listing: SessionListQuery) -> list[str]:
    """The conditions that the index of the list's order serves."""
    terms = ["s.kind = :kind"]
    if not listing.any_owner:
        terms.append("s.owner = :owner")
    if listing.pinned is not None:
        terms.append(f"s.pinned = {int(listing.pinned)}")
    if listing.after is not None:
        is_by_access = listing.order == "accessed"
        terms.append("(s.accessed_at_us, s.no) < (:accessed_at_us, :no)" if is_by_access else "s.no < :no")
    return terms


def _parameters(listing: SessionListQuery, last: tuple[int, int] | None = None) -> dict[str, int | str | None]:
    at_us, no = listing.after or (None, None)
    last_at_us, last_no = last or (None, None)
    return {
        "owner": listing.owner or "",
        "kind": listing.kind,
        "now_us": listing.now_us,
        "accessed_at_us": at_us,
        "no": no,
        "last_at_us": last_at_us,
        "last_no": last_no,
        "limit": listing.limit,
    }


def _with_label(label: int) -> str:
    return f"labels d CROSS JOIN sessions s ON s.no = d.no AND d.label = {label}"
