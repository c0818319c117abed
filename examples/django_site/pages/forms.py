from django import forms

from pages.models import Entry


class EntryForm(forms.ModelForm):
    class Meta:
        model = Entry
        fields = ("text",)


class UploadForm(forms.Form):
    file = forms.FileField(max_length=255, allow_empty_file=True)
