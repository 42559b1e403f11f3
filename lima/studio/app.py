"""The studio's routes: pages, and what they ask for. Everything a model or a source wrote leaves here as inert HTML or as JSON."""

import base64
import secrets
import sys
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from fastapi import FastAPI, Query
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from lima import UserError
from lima.studio.annotate import Refused
from lima.studio.results import results

PAGE = Path(__file__).parent / "page"
HERE = ("127.0.0.1", "localhost", "[::1]")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Name = Annotated[str, Query(max_length=40)]


class Decision(BaseModel):
    id: str = Field(max_length=2000)
    decision: Literal["accept", "reject", "edit", "undo"]
    seen: str | None = None  # what the page knows to be decided
    who: str = Field(min_length=1, max_length=40)
    why: str = Field("", max_length=2000)
    messages: list[dict] | None = None


class Choice(BaseModel):
    who: str = Field(max_length=40)
    choice: Literal[1, 2, 3]
    seconds: float = Field(ge=0, le=86_400)


def make(review=None, compare=None, rate=None, instructions=None, hints=None, password=None):
    """The app. review: a `Review`; compare, rate: `annotate.Room`s; each None where there is nothing to show, and then
    hints[room] says how to get it. instructions: room → what annotators are told. password: asked of everybody, if given."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    rooms = {"compare": compare, "rate": rate}
    _guard(app, password)
    _errors(app)

    @app.get("/api/rooms")
    def all_rooms():
        here = {"review": review, **rooms}
        named = any(room and room.annotators for room in rooms.values())
        return {
            "rooms": {name: room is not None for name, room in here.items()},
            "hints": hints or {},
            "instructions": instructions or {},
            "named": named,
        }

    if review:

        @app.get("/api/review")
        def candidates():
            return review.overview()

        @app.get("/api/review/{n}")
        def candidate(n: int):
            return review.view(n)

        @app.post("/api/review/{n}")
        def decide(n: int, body: Decision):
            review.check(n, body.id, body.decision, body.who, body.seen)
            review.decide(n, body.decision, body.who, body.why, body.messages)
            return review.standing()

    def room_of(name):
        if rooms.get(name) is None:
            raise Refused(f"there is nothing to {name} here")
        return rooms[name]

    @app.get("/api/{room}/session")
    def session(room: str, who: Name):
        return {"items": room_of(room).session(who), "seen": room_of(room).has_seen(who)}

    @app.get("/api/{room}/results")
    def found(room: str, who: Name):
        room_of(room).see_results(who)
        return results(room_of(room))

    @app.get("/api/{room}/items/{key}")
    def item(room: str, key: str, who: Name):
        return room_of(room).view(who, key)

    @app.post("/api/{room}/items/{key}")
    def choose(room: str, key: str, body: Choice):
        room_of(room).put(body.who, key, body.choice, body.seconds)
        return {"saved": True}

    app.mount("/page", StaticFiles(directory=PAGE))

    for path in ("/", "/review", "/compare", "/rate"):
        app.get(path)(lambda: FileResponse(PAGE / "index.html"))

    return app


def _guard(app, password):
    """Who may ask: this machine's own pages, or whoever knows the password."""
    expected = "Basic " + base64.b64encode(f"studio:{password}".encode()).decode()

    @app.middleware("http")
    async def guard(request, call_next):
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if password is None and host.rsplit(":", 1)[0] not in HERE:  # a name that somebody pointed at this machine
            response = JSONResponse({"error": f"open the studio at {HERE[0]}"}, 421)
        elif origin is not None and urlsplit(origin).netloc != host:
            response = JSONResponse({"error": "another site may not ask the studio"}, 403)
        elif password is not None and not secrets.compare_digest(
            request.headers.get("authorization", "").encode(), expected.encode()
        ):
            ask = {"WWW-Authenticate": 'Basic realm="studio (user: studio)", charset="UTF-8"'}
            response = JSONResponse({"error": "the studio wants its password (user: studio)"}, 401, ask)
        else:
            response = await call_next(request)
        response.headers.update(HEADERS)
        return response


def _errors(app):
    """What went wrong as one line for the page. Files' names, which hold the systems' names, stay on the terminal."""

    def said(status, text):
        return JSONResponse({"error": text}, status)

    @app.exception_handler(Refused)
    def refused(request, error):
        return said(409, str(error))

    @app.exception_handler(RequestValidationError)
    def malformed(request, error):
        first = error.errors()[0]
        return said(422, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}")

    @app.exception_handler(UserError)
    def wrong(request, error):
        if request.url.path.startswith("/api/review"):
            return said(422, str(error))
        print(f"error: {error}", file=sys.stderr, flush=True)
        return said(500, "not saved: the studio's terminal says why")

    @app.exception_handler(Exception)
    def fault(request, error):  # the terminal gets its traceback
        return said(500, "not saved: the studio's terminal says why")

    @app.exception_handler(OSError)
    def failed(request, error):
        print(f"error: {error}", file=sys.stderr, flush=True)
        return said(507, f"not saved: {error.strerror or 'the disk failed'}")
