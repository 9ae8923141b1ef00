"""The article's web app; not one line of it is about tracing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastworker.clients.client import Client  # 0.1.1 has it nowhere else

client = Client()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    await client.start()
    yield
    client.stop()


app = FastAPI(lifespan=lifespan)


@app.post("/signup")
async def signup(user_id: int) -> dict[str, str]:
    task_id = await client.delay("send_welcome_email", user_id)
    return {"task_id": task_id}
