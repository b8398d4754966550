"""The clients that people use, over a real socket: OpenAI's and Anthropic's own libraries."""

from __future__ import annotations

import asyncio
import re

import pytest

from qwenkit.serving.codecs import CODECS
from qwenkit.serving.keys import Key, Keyring
from tests.conftest import ROOT
from tests.serving.asgi import LIMIT
from tests.serving.conftest import Desk
from tests.serving.test_server import Running, running

SECRET = "sk-0123456789abcdef"
MESSAGES = [{"role": "user", "content": "river?"}]


def test_openais_client(desk: Desk) -> None:
    openai = pytest.importorskip("openai")
    with running(desk, codecs=CODECS, keyring=Keyring([Key.of("a", SECRET)])) as made:
        client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{made.port}/v1", api_key=SECRET, timeout=LIMIT, max_retries=0
        )
        asked = {"model": "tiny", "messages": MESSAGES, "max_tokens": 4, "temperature": 0}
        answer = client.chat.completions.create(**asked)
        assert answer.usage.completion_tokens <= 4 and answer.choices[0].message.role == "assistant"
        chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == answer.choices[0].message.content and chunks[-1].usage == answer.usage.model_copy(
            update={"prompt_tokens_details": chunks[-1].usage.prompt_tokens_details}
        )
        assert [model.id for model in client.models.list()] == ["tiny"]
        response = client.responses.create(model="tiny", input="river?", max_output_tokens=4)
        assert response.usage.output_tokens <= 4
        assert len(client.embeddings.create(model="tiny", input="river").data[0].embedding) == 32
        with pytest.raises(openai.NotFoundError, match="did you mean tiny"):
            client.chat.completions.create(**{**asked, "model": "tin"})
        with pytest.raises(openai.BadRequestError, match="max_tokens"):
            client.chat.completions.create(**{**asked, "max_tokens": -1})
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="sk-wrong-wrong-wrong").models.list()
        asyncio.run(many(openai, made))
        client.close()


def test_the_program_of_the_page(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openai")
    text = (ROOT / "docs" / "serving.md").read_text("utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    with running(desk, codecs=CODECS) as made:
        here = program.replace("127.0.0.1:8000", f"127.0.0.1:{made.port}").replace("chat-rlhf", "tiny")
        exec(here, {})
    assert capsys.readouterr().out


async def many(openai: object, made: Running) -> None:
    """Eight streams at once, of the asynchronous client."""
    client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{made.port}/v1", api_key=SECRET, timeout=LIMIT)  # type: ignore[attr-defined]

    async def one(number: int) -> str:
        messages = [{"role": "user", "content": f"river {number % 2}?"}]
        stream = await client.chat.completions.create(
            model="tiny", messages=messages, max_tokens=6, temperature=0, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    texts = await asyncio.gather(*(one(number) for number in range(8)))
    assert len(set(texts[::2])) == len(set(texts[1::2])) == 1
    await client.close()


def test_anthropics_client(desk: Desk) -> None:
    anthropic = pytest.importorskip("anthropic")
    with running(desk, codecs=CODECS, keyring=Keyring([Key.of("a", SECRET)])) as made:
        client = anthropic.Anthropic(
            base_url=f"http://127.0.0.1:{made.port}", api_key=SECRET, timeout=LIMIT, max_retries=0
        )
        asked = {"model": "tiny", "messages": MESSAGES, "max_tokens": 4, "extra_body": {"temperature": 0}}
        answer = client.messages.create(**asked)
        assert answer.usage.output_tokens <= 4
        with client.messages.stream(**asked) as stream:
            text = "".join(stream.text_stream)
        assert text == "".join(block.text for block in answer.content)
        assert client.messages.count_tokens(model="tiny", messages=MESSAGES).input_tokens > 4
        with pytest.raises(anthropic.NotFoundError, match="did you mean tiny"):
            client.messages.create(**{**asked, "model": "tin"})
        with pytest.raises(anthropic.AuthenticationError):
            client.with_options(api_key="sk-wrong-wrong-wrong").messages.create(**asked)
        client.close()
