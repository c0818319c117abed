import asyncio
import hashlib
import time

from django.contrib.auth.models import User
from ninja import JSONL, SSE, File, NinjaAPI, Schema
from ninja.files import UploadedFile
from ninja.security import django_auth

api = NinjaAPI()
VERSION = 1


class Item(Schema):
    number: int
    version: int


class Registration(Schema):
    name: str
    tags: list[str] = []


@api.get("/add")
def add(request, a: int, b: int):
    return {"result": a + b}


@api.get("/say-after")
async def say_after(request, delay: float, word: str):
    await asyncio.sleep(delay)
    return {"saying": word}


@api.get("/users")
async def users(request):
    return {"users": [user.username async for user in User.objects.all()]}


@api.get("/me", auth=django_auth)
def me(request):
    return {"name": request.auth.username}


@api.post("/items")
def create(request, item: Registration):
    return item


@api.post("/upload")
def upload(request, file: UploadedFile = File(...)):
    return {"name": file.name, "size": file.size, "sha256": hashlib.sha256(file.read()).hexdigest()}


@api.post("/upload-async")
async def upload_async(request, file: UploadedFile = File(...)):
    return {"name": file.name, "size": file.size, "sha256": hashlib.sha256(file.read()).hexdigest()}


@api.get("/ticks", response=SSE[Item])
async def ticks(request):
    number = 0
    while True:
        yield {"number": number, "version": VERSION}
        number += 1
        await asyncio.sleep(0.1)


@api.get("/numbers", response=JSONL[Item])
def numbers(request):
    for number in range(4):
        yield {"number": number, "version": VERSION}
        time.sleep(0.2)
