import secrets

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = (("pages", "0001_initial"),)

    operations = (
        migrations.CreateModel(
            name="ChatMessage",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("sent_at", models.DateTimeField(auto_now_add=True)),
                ("name", models.CharField(max_length=40)),
                ("text", models.TextField(max_length=2000)),
                ("key", models.CharField(default=secrets.token_hex, max_length=64, unique=True)),
            ],
        ),
    )
