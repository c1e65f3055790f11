"""A chat server that speaks OpenAI's protocol, such as ``vllm serve``: asked until it answers, no faster than it
allows."""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import random
import sys
import time
from dataclasses import dataclass
from typing import Any

import httpx
from tqdm import tqdm

from openrlhf_negdata.errors import UserError

#: Seconds before the first retry where the server does not say; each further wait is twice as long, up to the last.
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
#: After this many requests in a row that got no reply, retries and all, nothing more is asked.
GONE = 10
#: What a busy or failing server says. Any other status from 400 on is about the request, and would come again.
_TRY_AGAIN = {408, 409, 425, 429}


class GaveUp(Exception):
    """The server did not answer a request, however often it was sent."""


class Rejected(Exception):
    """The server will not answer this request: it may be longer than the model's context."""


@dataclass(frozen=True)
class Reply:
    """What the model said. Tokens are those the server counted; None where it counts none."""

    text: str
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None


class ChatServer:
    """Asks one model, from one event loop; an async context manager.

    At most ``concurrency`` requests are under way at once. ``requests_per_minute`` limits how many are sent, retries
    counted. Where the server says how long to wait (``Retry-After``), every request waits for so long.
    """

    def __init__(
        self,
        base_url: str,
        key: str | None,
        concurrency: int,
        requests_per_minute: float | None,
        timeout: float,
        max_retries: int,
    ) -> None:
        self.base_url, self.concurrency = base_url.rstrip("/"), concurrency
        self.timeout, self.max_retries = timeout, max_retries
        self._key = key
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=None,  # the whole of a request is timed, here
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        )
        self._under_way = asyncio.Semaphore(concurrency)
        self._interval = 60 / requests_per_minute if requests_per_minute else 0.0
        self._next_turn = 0.0
        self._queue = asyncio.Lock()
        self._unanswered = 0

    async def __aenter__(self) -> ChatServer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def models(self) -> list[str]:
        """The models the server lists; none where it has no list. UserError where it cannot be reached."""
        try:
            async with asyncio.timeout(min(self.timeout, 30)):
                response = await self._http.get(f"{self.base_url}/models")
        except (httpx.RequestError, httpx.InvalidURL, TimeoutError) as error:
            raise UserError(
                f"no server answers at {self.base_url} ({_reason(error)}): start one with `vllm serve MODEL`, or give "
                "another --server.base_url"
            ) from None
        self._check_access(response)
        try:
            return [str(model["id"]) for model in response.json()["data"]]
        except (ValueError, KeyError, TypeError):
            return []

    async def ask(self, body: dict[str, Any]) -> Reply:
        """The reply to a chat request. GaveUp, Rejected, or UserError where no other request can fare better."""
        for retries in range(self.max_retries + 1):
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2**retries) * random.uniform(0.5, 1)
            try:
                response = await self._send(body)
                if response.is_success:
                    reply = _read(response)
                    self._unanswered = 0
                    return reply
                problem = self._said(response)
                self._check_access(response)
                if response.status_code not in _TRY_AGAIN and response.status_code < 500:
                    self._leave_unanswered(problem)
                    raise Rejected(problem)
                self._hold(_retry_after(response))
            except (httpx.RequestError, TimeoutError) as error:
                problem = _reason(error)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                problem = f"a reply that is not OpenAI's chat format: {error!r:.200}"
            if retries < self.max_retries:
                await asyncio.sleep(wait)
        self._leave_unanswered(problem)
        raise GaveUp(problem)

    def _leave_unanswered(self, problem: str) -> None:
        self._unanswered += 1
        if self._unanswered >= GONE:
            raise UserError(
                f"{self.base_url} left {GONE} requests in a row without a reply (the last: {problem}): see to the "
                "server, or to what is asked of it, then run the command again to go on"
            )

    async def _send(self, body: dict[str, Any]) -> httpx.Response:
        async with self._under_way:
            await self._turn()
            async with asyncio.timeout(self.timeout):
                # Escaped by json, not by httpx: half a surrogate pair in a question has no other encoding.
                return await self._http.post(
                    f"{self.base_url}/chat/completions",
                    content=json.dumps(body).encode(),
                    headers={"Content-Type": "application/json"},
                )

    async def _turn(self) -> None:
        async with self._queue:
            while (wait := self._next_turn - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            self._next_turn = time.monotonic() + self._interval

    def _hold(self, seconds: float) -> None:
        """Send nothing for ``seconds``."""
        if seconds > LONGEST_WAIT:
            tqdm.write(f"the server asks to wait {seconds:,.0f} s", file=sys.stderr)
        self._next_turn = max(self._next_turn, time.monotonic() + seconds)

    def _check_access(self, response: httpx.Response) -> None:
        if response.status_code in (401, 403):
            raise UserError(
                f"{self.base_url} refuses access ({self._said(response)}): put its key into the environment variable "
                "that --server.api_key_env names"
            )
        if response.status_code == 404 and response.url.path.endswith("/chat/completions"):
            raise UserError(
                f"{self.base_url} has no such model or address ({self._said(response)}): see --server.model, and "
                "whether --server.base_url ends as it should, often in /v1"
            )

    def _said(self, response: httpx.Response) -> str:
        """The status and the server's words in one line, without the key, which some servers repeat."""
        words = " ".join(response.text[:2000].split())
        return f"{response.status_code}: {words.replace(self._key, '***') if self._key else words:.300}"


def _read(response: httpx.Response) -> Reply:
    content = response.json()
    (choice,) = content["choices"]
    usage = content.get("usage") or {}
    # A reply that was filtered, or all of which was thought, has no content.
    text = choice["message"].get("content") or ""
    if not isinstance(text, str):
        raise TypeError(f"content is {text!r:.100}, not text")
    counted = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    return Reply(text, choice.get("finish_reason"), *(None if tokens is None else int(tokens) for tokens in counted))


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the server asks to wait, by a header that gives seconds or a date; 0 where it does not say."""
    value = response.headers.get("Retry-After", "")
    try:
        seconds = float(value)
    except ValueError:
        date = email.utils.parsedate_tz(value)
        seconds = email.utils.mktime_tz(date) - time.time() if date else 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())
