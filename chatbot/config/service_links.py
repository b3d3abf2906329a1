"""Recognizes variables that Docker and Kubernetes set for a container or service called chatbot. They are not settings.

Kubernetes: CHATBOT_SERVICE_HOST, CHATBOT_PORT=tcp://10.0.0.1:80, CHATBOT_PORT_80_TCP_ADDR. Docker's links have those of
the second kind, CHATBOT_NAME=/web/chatbot, and CHATBOT_ENV_<NAME> for each variable of the other container.
"""

import re
from collections.abc import Mapping

_SERVICE = re.compile(r"CHATBOT_(\w+_)?SERVICE_(HOST|PORT)(_\w+)?")
_PORT = re.compile(r"CHATBOT_(\w+_)?PORT")
_PORT_PART = re.compile(r"CHATBOT_(\w+_)?PORT_\d+_(TCP|UDP|SCTP)(_\w+)?")
_PORT_VALUE = re.compile(r"(tcp|udp|sctp)://\S+:\d+")
_NAME = re.compile(r"CHATBOT_(\w+_)?NAME")
_NAME_VALUE = re.compile(r"/[^/\s]+/[^/\s]+")
_OTHERS = re.compile(r"(?P<alias>CHATBOT(_\w+?)?)_ENV_\w+")


def is_service_link(name: str, environment: Mapping[str, str]) -> bool:
    """Whether `name` is such a variable, by its form, and if that could be a misspelt setting, by its value."""
    text = environment[name]
    if _SERVICE.fullmatch(name) or _PORT_PART.fullmatch(name):
        return True
    if _PORT.fullmatch(name):
        return bool(_PORT_VALUE.fullmatch(text))
    if _NAME.fullmatch(name):
        return bool(_NAME_VALUE.fullmatch(text))
    other = _OTHERS.fullmatch(name)
    return bool(other and _NAME_VALUE.fullmatch(environment.get(f"{other['alias']}_NAME", "")))
