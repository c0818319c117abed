import os

from django.http import HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django_eventstream import send_event


@csrf_exempt
def say(request):
    send_event("notices", "message", {"text": request.POST["text"]})
    return HttpResponse(str(os.getpid()))
