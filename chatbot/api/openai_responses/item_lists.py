"""Lists of items, page by page."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from aiohttp import web
from msgspec import Struct

from chatbot.api.openai_responses.item_views import Item
from chatbot.api.openai_responses.object_ids import ItemKey, read_item_id
from chatbot.api.problems import RequestFault
from chatbot.api.request_queries import query_int
from projections.folds.message import MessageRow

PAGE_MAX, PAGE = 100, 20  # items, as at OpenAI

ItemsOf = Callable[[MessageRow], Awaitable[list[Item]]]


class ItemList(Struct, frozen=True):
    """A page of items. `has_more`: others come after `last_id`."""

    data: list[Any]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


class ListQuery(Struct, frozen=True):
    """`after`: the id of the last item of the page before."""

    after: str | None
    limit: int
    newest_first: bool


def read_list_query(request: web.Request) -> ListQuery:
    """Raises RequestFault."""
    order = request.query.get("order") or "desc"
    if order not in ("asc", "desc"):
        raise RequestFault("must be asc or desc", "query.order")
    limit = query_int(request, "limit", PAGE, 1, PAGE_MAX)
    return ListQuery(request.query.get("after") or None, limit, order == "desc")


async def list_items(rows: Sequence[MessageRow], query: ListQuery, items_of: ItemsOf) -> ItemList:
    """A page of the items of `rows`, which come oldest first. Raises RequestFault if `after` is no item of theirs; one
    that was redacted meanwhile still has its place.
    """
    ordered = list(reversed(rows)) if query.newest_first else list(rows)
    last = _last_read(ordered, query.after)
    found: list[Item] = []
    for row in _beginning_with(ordered, last):
        items = await items_of(row)
        for item in reversed(items) if query.newest_first else items:
            if last is None or row.message_id != last.message_id or _follows(item, last, query):
                found.append(item)
        if len(found) > query.limit:
            break
    return page_of(found[: query.limit], has_more=len(found) > query.limit)


def page_of(items: Sequence[Item], *, has_more: bool = False) -> ItemList:
    return ItemList(list(items), items[0].id if items else None, items[-1].id if items else None, has_more)


def _last_read(rows: Sequence[MessageRow], after: str | None) -> ItemKey | None:
    """Raises RequestFault if no message of `rows` can have the item `after`."""
    if after is None:
        return None
    key = read_item_id(after)
    if key is None or all(row.message_id != key.message_id for row in rows):
        raise RequestFault("is no item of this list", "query.after")
    return key


def _beginning_with(rows: Sequence[MessageRow], last: ItemKey | None) -> Sequence[MessageRow]:
    """The rows from the one on that has the item `last`."""
    start = next((index for index, row in enumerate(rows) if last is not None and row.message_id == last.message_id), 0)
    return rows[start:]


def _follows(item: Item, last: ItemKey, query: ListQuery) -> bool:
    """Whether the item, of the same message as `last`, comes after it."""
    key = read_item_id(item.id)
    return key is not None and (key.part < last.part if query.newest_first else key.part > last.part)
