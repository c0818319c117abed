INSTALLED_APPS += ["django_eventstream", "notices"]
EVENTSTREAM_STORAGE_CLASS = "django_eventstream.storage.DjangoModelStorage"
if "SITE_REDIS_PORT" in os.environ:
    EVENTSTREAM_REDIS = {"host": "127.0.0.1", "port": int(os.environ["SITE_REDIS_PORT"])}
