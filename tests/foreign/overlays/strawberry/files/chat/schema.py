import asyncio
from collections.abc import AsyncGenerator

import strawberry
from channels.layers import get_channel_layer
from django.contrib.auth.models import User
from strawberry.types import Info

VERSION = 1


@strawberry.type
class Query:
    @strawberry.field
    def version(self) -> int:
        return VERSION

    @strawberry.field
    async def users(self) -> list[str]:
        return [user.username async for user in User.objects.all()]


@strawberry.type
class Mutation:
    @strawberry.mutation
    async def say(self, room: str, text: str) -> bool:
        await get_channel_layer().group_send(f"chat_{room}", {"type": "chat.message", "text": text})
        return True


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def count(self, target: int) -> AsyncGenerator[int, None]:
        for number in range(target):
            yield number
            await asyncio.sleep(0.05)

    @strawberry.subscription
    async def said(self, info: Info, room: str) -> AsyncGenerator[str, None]:
        consumer = info.context["ws"]
        async with consumer.listen_to_channel("chat.message", groups=[f"chat_{room}"]) as messages:
            yield "joined"
            async for message in messages:
                yield message["text"]


schema = strawberry.Schema(Query, Mutation, Subscription)
