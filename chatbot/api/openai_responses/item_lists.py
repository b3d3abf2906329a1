"""Lists of items, page by page."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from aiohttp import web
from msgspec import Struct

from chatbot.api.openai_responses.item_views import Item
from chatbot.api.openai_responses.object_ids import read_item_id
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
    """A page of the items of `rows`, which come oldest first. Raises RequestFault if `after` is none of theirs."""
    ordered = list(reversed(rows)) if query.newest_first else list(rows)
    found: list[Item] = []
    is_found = query.after is None
    for row in _beginning_with(ordered, query.after):
        items = await items_of(row)
        for item in reversed(items) if query.newest_first else items:
            if is_found:
                found.append(item)
            is_found = is_found or item.id == query.after
        if len(found) > query.limit:
            break
    if not is_found:
        raise RequestFault("is no item of this list", "query.after")
    return page_of(found[: query.limit], has_more=len(found) > query.limit)


def page_of(items: Sequence[Item], *, has_more: bool = False) -> ItemList:
    return ItemList(list(items), items[0].id if items else None, items[-1].id if items else None, has_more)


def _beginning_with(rows: Sequence[MessageRow], after: str | None) -> Sequence[MessageRow]:
    """The rows from the one on that has the item `after`."""
    if after is None:
        return rows
    key = read_item_id(after)
    wanted = key.message_id if key is not None else None
    start = next((index for index, row in enumerate(rows) if row.message_id == wanted), len(rows))
    return rows[start:]
