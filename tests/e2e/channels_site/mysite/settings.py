SECRET_KEY = "a secret of tests"
DEBUG = False
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["channels", "chat"]
ROOT_URLCONF = "mysite.urls"
ASGI_APPLICATION = "mysite.asgi.application"
USE_TZ = True
TIME_ZONE = "UTC"
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "ifserver.django.ChannelLayer",
        # As it was for channels_redis.
        "CONFIG": {"hosts": [("127.0.0.1", 6379)], "capacity": 1500},
    }
}
