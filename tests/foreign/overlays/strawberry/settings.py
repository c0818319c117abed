INSTALLED_APPS += ["channels", "strawberry.django", "chat"]
CHANNEL_LAYERS = {
    "default": {"BACKEND": os.environ.get("SITE_CHANNEL_LAYER", "ifserver.django.ChannelLayer")},
}
