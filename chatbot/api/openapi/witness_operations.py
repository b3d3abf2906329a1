"""The operations of a witness of other logs."""

from chatbot.api.openapi.schemas import Operation, ResponseSpec

BODY = ("application/octet-stream",)  # what generators of clients know how to send; any type may be sent
TEXT = ("text/plain",)
SIZE = ("text/x.tlog.size",)
_ADD = """For logs, as [tlog-witness](https://c2sp.org/tlog-witness) has it: `old SIZE`, a line for each hash of a
consistency proof (RFC 6962) in base64, an empty line, and the checkpoint. The signature of the checkpoint
authenticates the request; `[witness]` in the settings names the logs. Without these settings the answer is 404.
"""
_NEWEST = """For monitors and auditors. `origin_hash` is the SHA-256 of the log's name in hexadecimal digits.
"""

WITNESS = (
    Operation(
        "POST", "/witness/add-checkpoint", "witness_checkpoint", "Have a checkpoint of another log cosigned",
        {
            200: ResponseSpec("The witness's signature: a line of a signed note.", str, TEXT),
            400: ResponseSpec("The body has another form.", str, TEXT),
            403: ResponseSpec("The checkpoint is not signed with a known key of its log.", str, TEXT),
            404: ResponseSpec("This log is not witnessed here.", str, TEXT),
            409: ResponseSpec("The size of the checkpoint seen last, which is not the old size.", str, SIZE),
            422: ResponseSpec("The log has not only grown, or the proof is wrong.", str, TEXT),
        },
        details=_ADD, body_media=BODY, problems=(408, 413, 503),
    ),
    Operation(
        "GET", "/witness/{origin_hash}/checkpoint", "witnessed_checkpoint", "The newest checkpoint of another log",
        {
            200: ResponseSpec("The checkpoint, with the signatures of its log and of the witness.", str, TEXT),
            404: ResponseSpec("None was seen.", str, TEXT),
        },
        details=_NEWEST, problems=(503,),
    ),
)  # fmt: skip
