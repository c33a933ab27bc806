"""Between the network and the routes: what is recorded of a request, and what goes wrong with it."""

import asyncio
import json
import re
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import unquote


@dataclass
class Exchange:
    """One request and its answer; the numbers are bytes of the two bodies as they went over the wire."""

    method: str
    path: str  # unquoted, without the query
    query: str
    headers: dict[str, str]  # of the request, names in lower case
    status: int = 0  # 0 until the answer starts
    received: int = 0
    sent: int = 0

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Rule:
    """What to do to the next `times` requests whose "METHOD /path" the pattern is found in; None means for ever."""

    pattern: str
    times: int | None
    status: int | None = None
    retry_after: int | None = None  # seconds
    code: str | None = None  # X-Error-Code, as in "RepoNotFound"
    cut_after: int | None = None  # bytes of the answer's body before the connection is closed
    delay: float = 0.0  # seconds before the request is looked at
    corrupt: bool = False  # the first byte of the answer's body is wrong


class Middleware:
    """Records each request, applies the first rule that matches, and hands paths on as quoted as they came."""

    def __init__(self, app):
        self.app = app
        self.rules: list[Rule] = []
        self.requests: list[Exchange] = []

    def due(self, exchange: Exchange) -> Rule | None:
        for rule in self.rules:
            if rule.times != 0 and re.search(rule.pattern, str(exchange)):
                rule.times = None if rule.times is None else rule.times - 1
                return rule
        return None

    async def __call__(self, scope, receive, send):
        raw_path = scope["raw_path"].decode("ascii")
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        exchange = Exchange(scope["method"], unquote(raw_path), scope["query_string"].decode("ascii"), headers)
        self.requests.append(exchange)
        rule = self.due(exchange)
        flipped = closed = False

        async def counted_receive():
            message = await receive()
            exchange.received += len(message.get("body", b""))
            return message

        async def watched_send(message):
            nonlocal flipped, closed
            if closed:
                return
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", f"local-{id(exchange):x}".encode())]
            elif rule and rule.corrupt and message.get("body") and not flipped:
                flipped, body = True, message["body"]
                message = {**message, "body": bytes([body[0] ^ 0xFF]) + body[1:]}
            if message["type"] == "http.response.body":
                body = message.get("body", b"")
                if rule and rule.cut_after is not None and exchange.sent + len(body) >= rule.cut_after:
                    closed = True  # uvicorn closes a connection whose answer never came to its end
                    body = body[: rule.cut_after - exchange.sent]
                    message = {**message, "body": body, "more_body": True}
                exchange.sent += 0 if exchange.method == "HEAD" else len(body)
            await send(message)

        if rule:
            await asyncio.sleep(rule.delay)
        if rule and rule.status:
            await refuse(rule, watched_send)
        else:
            await self.app({**scope, "path": raw_path}, counted_receive, watched_send)


async def refuse(rule: Rule, send) -> None:
    message = HTTPStatus(rule.status).phrase
    headers = {"Content-Type": "application/json", "X-Error-Message": message}
    headers |= {"X-Error-Code": rule.code} if rule.code else {}
    headers |= {"Retry-After": str(rule.retry_after)} if rule.retry_after is not None else {}
    body = json.dumps({"error": message}).encode()
    headers["Content-Length"] = str(len(body))
    raw_headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": rule.status, "headers": raw_headers})
    await send({"type": "http.response.body", "body": body})
