"""Which models there are to choose from."""

from aiohttp import web

from chatbot.api.request_bodies import check_query
from chatbot.api.response_bodies import ModelsView, ModelView
from chatbot.api.responses import json_response
from chatbot.api.services import SERVICES
from chatbot.llm.provider import Provider

routes = web.RouteTableDef()


@routes.get("/api/models")
async def models(request: web.Request) -> web.Response:
    """As of the newest look at the model server, so that this call costs it nothing."""
    check_query(request, frozenset())
    return json_response(models_view(request.app[SERVICES].provider))


def models_view(provider: Provider) -> ModelsView:
    """Empty where nothing is known of the model server yet."""
    default = provider.model
    names = sorted(provider.models - {default})
    listed = [ModelView(name, default=name == default) for name in ([default] if default else []) + names]
    return ModelsView(listed, complete=provider.lists_models)
